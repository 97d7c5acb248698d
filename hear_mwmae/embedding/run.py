"""Inputs -> an output. A run embeds what is new or changed, so that it resumes, and grows."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from ..data.sources import Inputs, Item
from ..embedder import Embedder
from ..errors import HearMwmaeError
from ..files import UNFINISHED, one_at_a_time, printable
from .encode import embed_items
from .parts import Failure, Part, embed_part, read_parts
from .plan import compare, cut, read_table, refresh
from .provenance import check_provenance, provenance_of
from .tables import TABLE_SUFFIXES, read_provenance, write_failures, write_table

if TYPE_CHECKING:
    from .cluster import Cluster


@dataclass(frozen=True)
class Output:
    """Destination: a table (.npz, .npy, .csv, .parquet) of parts, or the folder of the parts."""

    path: Path

    @property
    def is_folder(self) -> bool:
        return self.path.suffix not in TABLE_SUFFIXES or self.path.is_dir()

    @property
    def parts(self) -> Path:
        """The folder of the parts."""
        return self.path if self.is_folder else self.path.with_name(f"{self.path.name}.parts")

    @property
    def failures(self) -> Path:
        """The table of failures."""
        return self.path.with_name(f"{self.path.name}.failures.csv")

    def prepare(self) -> None:
        """Make the folder of the parts.

        HearMwmaeError if it cannot be made, or holds other files.
        """
        try:
            self.parts.mkdir(exist_ok=True)
        except OSError as error:
            raise HearMwmaeError(f"cannot write {self.path}: {error.strerror}") from error
        for name in sorted(path.name for path in self.parts.iterdir()):
            if not name.startswith((".", "part-")):
                held = f"{self.parts} is not empty (it holds {name})"
                raise HearMwmaeError(f"{held}: parts need a folder of their own")


@dataclass(frozen=True)
class Outcome:
    """Result of a run."""

    clips: int
    failures: list[tuple[str, str]]  #: name, reason


def embed_to(
    output: Output,
    model: Embedder,
    inputs: Inputs,
    timestamps: bool = False,
    *,
    name: str = "",
    overwrite: bool = False,
    cluster: Cluster | None = None,
    progress: bool = True,
    echo: Callable[[str], object] = lambda text: None,
) -> Outcome:
    """Embed the inputs that ``output`` does not hold yet, and drop what is not among them any more.

    Args:
        name: of the model, for the metadata of the output.
        overwrite: replace an output of another model or other settings.
        cluster: share the work among processes of Ray.
        echo: receives a line about an output that exists: what is new, changed, gone and kept.

    Raises HearMwmaeError if the output is another model's, if another process is writing it, or if
    a server fails; OSError if the disk fails. What is done is kept, and the next run goes on there.
    """
    about = provenance_of(model, name, timestamps)
    if output.path.is_file() and not overwrite:
        check_provenance(read_provenance(output.path), about, output.path)
    output.prepare()
    with one_at_a_time(output.parts / ".lock", f"another process is embedding into {output.path}"):
        parts = _existing_parts(output, about, overwrite)
        plan = compare(inputs.items, parts)
        if parts:
            echo(plan.summary)
        failed = _embed_parts(output.parts, model, plan.todo, about, cluster, progress)
        return _finish(output, inputs, about, failed)


def show(
    model: Embedder, inputs: Inputs, timestamps: bool, progress: bool = True
) -> list[tuple[str, str]]:
    """Embed ``inputs``, print a line for each clip, and return the failures."""
    failures = list(inputs.failures)
    # In a file or a pipe, every line would repeat the bar.
    with _bar(inputs.items, progress and sys.stderr.isatty()) as bar:
        for clip in embed_items(model, inputs.items, timestamps):
            bar.update()
            if clip.rows is None:
                failures.append((clip.path, clip.problem))
            else:
                embeddings = np.stack(clip.rows["embedding"].to_numpy())
                bar.write(f"{clip.path}: {_described(embeddings, timestamps)}")
    return failures


def _described(embeddings: np.ndarray, timestamps: bool) -> str:
    """The shape, and the mean over the time steps."""
    values = embeddings.mean(axis=0)
    shape = f"{len(embeddings)} x {len(values)}" if timestamps else len(values)
    head = " ".join(f"{value:+.3f}" for value in values[:6])
    numbers = f"mean {values.mean():+.3f}, norm {np.linalg.norm(values):.2f}, starts {head}"
    return f"{shape} float32, {numbers}"


def _existing_parts(output: Output, about: dict[str, str], overwrite: bool) -> list[Part]:
    for leftover in output.parts.glob(f".part-*{UNFINISHED}"):  # of a process that was killed
        leftover.unlink()
    parts = read_parts(output.parts)
    if overwrite:
        for part in parts:
            part.file.unlink()
        return []
    for part in parts:
        check_provenance(part.provenance, about, output.path)
    return parts


def _embed_parts(
    folder: Path,
    model: Embedder,
    items: Sequence[Item],
    about: dict[str, str],
    cluster: Cluster | None,
    progress: bool,
) -> list[Failure]:
    """Embed inputs into new parts, and return the files that failed."""
    numbers = [int(file.name.split("-")[1]) for file in folder.glob("part-*.parquet")]
    first = max(numbers, default=-1) + 1
    groups = {
        folder / f"part-{number:05d}": group for number, group in enumerate(cut(items), first)
    }
    failed: list[Failure] = []
    with _bar(items, progress) as bar:
        if cluster and groups:
            for stem, failures in cluster.embed(model, groups, about):
                failed += failures
                bar.update(len(groups[stem]))
        else:
            for stem, group in groups.items():
                failed += embed_part(model, stem, group, about, lambda clip: bar.update())
    return failed


def _bar(items: Sequence[Item], shown: bool) -> tqdm:
    """A bar of clips, whose number is unknown with shards."""
    total = None if any(item.is_shard for item in items) else len(items)
    return tqdm(total=total, desc="embed", unit=" clips", disable=not (shown and items))


def _finish(
    output: Output, inputs: Inputs, about: dict[str, str], failed: list[Failure]
) -> Outcome:
    """Drop what is not among the inputs any more, and write the tables."""
    parts = read_parts(output.parts)
    kept = compare(inputs.items, parts).kept
    for item, part, _ in kept:
        failed += part.failures if item.is_shard else []
    order = {item.url: number for number, item in enumerate(inputs.items)}
    failed.sort(key=lambda failure: order[failure.url])
    failures = [(printable(name), printable(reason)) for name, reason in inputs.failures]
    failures += [(failure.path, failure.reason) for failure in failed]
    write_failures(output.failures, failures)
    clips = sum(part.inputs[place].clips for _, part, place in kept)
    if clips:
        refresh(parts, kept)
        if not output.is_folder:
            parts = read_parts(output.parts)
            kept = compare(inputs.items, parts).kept
            write_table(output.path, read_table(parts, kept), about)
    elif not parts:
        shutil.rmtree(output.parts, ignore_errors=True)
    return Outcome(clips, failures)
