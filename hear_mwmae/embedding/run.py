"""Inputs -> an output. A run embeds what is new or changed, so that it resumes, and grows."""

import csv
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from .._version import __version__
from ..data.sources import Inputs, Item
from ..embedder import Embedder
from ..errors import HearMwmaeError
from ..files import UNFINISHED, one_at_a_time, printable, replacing
from ..weights import hash_weights
from .encode import embed_items, labels_of
from .parts import Failures, Part, embed_part, part_files, read_part, read_parts, rewrite_part
from .tables import TABLE_SUFFIXES, write_table

#: Files that are embedded together: at most so many, and about so many bytes.
GROUP_FILES, GROUP_BYTES = 256, 64 << 20
#: Of a provenance, what the numbers depend on. An output holds numbers of one kind.
DECISIVE = ("weights", "dtype", "timestamps", "pooling")

Groups = Mapping[Path, Sequence[Item]]
#: Embeds groups of inputs into parts, as `cluster.embed_parts` does.
Share = Callable[[Embedder, Groups, dict[str, str]], Iterator[tuple[Path, Failures]]]


def embed_to(
    output: Path,
    model: Embedder,
    inputs: Inputs,
    timestamps: bool = False,
    *,
    name: str = "",
    overwrite: bool = False,
    share: Share | None = None,
    progress: bool = True,
    echo: Callable[[str], object] = lambda text: None,
) -> tuple[int, Failures]:
    """Embed the inputs that ``output`` does not hold yet, and drop what is not among them any more.

    Args:
        output: a table (.npz, .csv, .parquet), or a folder of parts.
        name: of the model, for the metadata of the output.
        overwrite: replace what the output holds of another model or other settings.
        share: embeds the parts in other processes.
        echo: receives a line about an output that exists: what is new, changed, gone and kept.

    Returns:
        The number of clips in the output, and the names and reasons of failures.

    Raises HearMwmaeError if the output is another model's, if another process is writing it, or if
    a server fails; OSError if the disk fails. What is done is kept, and the next run goes on there.
    """
    provenance = provenance_of(model, name, timestamps)
    folder = folder_of_parts(output)
    if output.is_file() and not overwrite and not part_files(folder):
        said = f"{output} is not an output of this command, or its parts are gone"
        raise HearMwmaeError(f"{said}: --overwrite replaces it")
    _make(folder)
    with one_at_a_time(folder / ".lock", f"another process is embedding into {output}"):
        for leftover in folder.glob(f".part-*{UNFINISHED}"):  # of a process that was killed
            leftover.unlink()
        parts = _parts_of(provenance, folder, output, overwrite)
        wanted = {item.identity: item for item in (*inputs.items, *_not_found(inputs, parts))}
        todo = _missing(wanted, parts, echo)
        failures = [(printable(source), printable(reason)) for source, reason in inputs.failures]
        groups = _groups(todo, parts, folder)
        failures += _embed_parts(groups, model, provenance, share, progress)
        parts = read_parts(folder)
        held = [entry for part in parts for entry in part.among(wanted)]
        failures += [failure for entry in held for failure in entry.failures]
        _write_failures(output, failures)
        if held:
            parts = _tidy(parts, wanted)
            if folder != output:
                write_table(output, parts)
        elif not parts:
            shutil.rmtree(folder)
        clips = sum(entry.clips for entry in held)
        return clips, failures


def folder_of_parts(output: Path) -> Path:
    """Where the parts of an output are: beside a table, or the output itself."""
    if output.suffix not in TABLE_SUFFIXES or output.is_dir():
        return output
    return output.with_name(f"{output.name}.parts")


def show(model: Embedder, inputs: Inputs, timestamps: bool, progress: bool = True) -> Failures:
    """Embed ``inputs``, print a line for each clip, and return the failures."""
    failures = list(inputs.failures)
    # In a file or a pipe, every line would repeat the bar.
    with _bar(inputs.items, progress and sys.stderr.isatty()) as bar:
        for clip in embed_items(model, inputs.items, timestamps):
            bar.update()
            if clip.problem:
                failures.append((clip.path, clip.problem))
                continue
            values = torch.cat(list(clip.embeddings)).mean(dim=0)
            shape = f"{clip.rows} x {len(values)}" if timestamps else len(values)
            head = " ".join(f"{value:+.3f}" for value in values[:6])
            numbers = f"mean {values.mean():+.3f}, norm {values.norm():.2f}, starts {head}"
            bar.write(f"{clip.path}: {shape} float32, {numbers}")
    return failures


def provenance_of(model: Embedder, name: str, timestamps: bool) -> dict[str, str]:
    """What makes embeddings; ``name`` is the name of the model."""
    return {
        "package": f"hear-mwmae {__version__}",
        "model": name,
        "weights": hash_weights(model),
        "dtype": str(next(model.encoder.parameters()).dtype).removeprefix("torch."),
        "timestamps": model.timestamps if timestamps else "none",
        "pooling": "none" if timestamps else model.config.pooling,
    }


def _not_found(inputs: Inputs, parts: Sequence[Part]) -> Iterator[Item]:
    """The inputs in the parts that cannot be looked for now, as those on a disk that is not there:
    they may be found again, so they are kept.
    """
    there = {item.url for item in inputs.items if item.exists}
    missing = {item.url for item in inputs.items} - there
    for item in (entry.item for part in parts for entry in part.inputs):
        if item.url in missing or (inputs.failures and item.url not in there):
            yield item


def _missing(
    wanted: Mapping[str, Item], parts: Sequence[Part], echo: Callable[[str], object]
) -> list[Item]:
    """The inputs that have to be embedded."""
    stored = [entry.item for part in parts for entry in part.inputs]
    kept = wanted.keys() & {item.identity for item in stored}
    todo = [item for key, item in wanted.items() if key not in kept]
    before = {item.url for item in stored if item.identity not in kept}
    now = {item.url for item in todo if item.exists}
    new, changed, gone = now - before, now & before, before - now
    if parts:
        echo(f"{len(new)} new, {len(changed)} changed, {len(gone)} gone, {len(kept)} kept")
    return todo


def _make(folder: Path) -> None:
    """Make the folder of the parts; HearMwmaeError if it holds other files."""
    folder.mkdir(exist_ok=True)
    ours = part_files(folder)
    others = [
        path.name for path in folder.iterdir() if path not in ours and not path.name.startswith(".")
    ]
    if others:
        held = f"{folder} is not empty (it holds {min(others)})"
        raise HearMwmaeError(f"{held}: parts need a folder of their own")


def _parts_of(
    provenance: Mapping[str, str], folder: Path, output: Path, overwrite: bool
) -> list[Part]:
    """The parts that hold numbers of this kind. Others, and damaged ones, are removed if
    ``overwrite``, and else a HearMwmaeError.
    """
    parts = []
    for file in part_files(folder):
        try:
            part = read_part(file)
            _check_provenance(part.provenance, provenance, output)
        except HearMwmaeError:
            if not overwrite:
                raise
            file.unlink()
        else:
            parts.append(part)
    return parts


def _check_provenance(found: Mapping[str, str], wanted: Mapping[str, str], where: Path) -> None:
    """HearMwmaeError if the numbers in the output ``where`` are of another kind."""
    said = [
        f"{name} {found.get(name, '')[:12]}, not {wanted[name][:12]}"
        for name in DECISIVE
        if found.get(name) != wanted[name]
    ]
    if said:
        raise HearMwmaeError(
            f"{where} holds other embeddings ({'; '.join(said)}): "
            "--overwrite replaces it, another -o keeps it"
        )


def _groups(items: Sequence[Item], parts: Sequence[Part], folder: Path) -> Groups:
    """New parts, and the inputs of each: files by number and bytes, a shard alone."""
    groups: list[list[Item]] = []
    left = 0
    for item in items:
        if not groups or item.is_shard or left <= 0 or len(groups[-1]) == GROUP_FILES:
            groups.append([])
            left = GROUP_BYTES
        groups[-1].append(item)
        left = 0 if item.is_shard else left - item.size
    first = 1 + max((int(part.file.stem.split("-")[1]) for part in parts), default=-1)
    names = (folder / f"part-{number:05d}.parquet" for number in range(first, first + len(groups)))
    return dict(zip(names, groups, strict=True))


def _embed_parts(
    groups: Groups, model: Embedder, provenance: dict[str, str], share: Share | None, shown: bool
) -> Failures:
    failures: Failures = []
    with _bar([item for group in groups.values() for item in group], shown) as bar:
        if share and groups:
            for file, failed in share(model, groups, provenance):
                failures += failed
                bar.update(len(groups[file]))
        else:
            for file, group in groups.items():
                failures += embed_part(model, file, group, provenance, lambda _: bar.update())
    return failures


def _bar(items: Sequence[Item], shown: bool) -> tqdm:
    """A bar of clips, whose number is unknown with shards."""
    total = None if any(item.is_shard for item in items) else len(items)
    return tqdm(total=total, desc="embed", unit=" clips", disable=not (shown and items))


def _write_failures(output: Path, failures: Failures) -> None:
    path = output.with_name(f"{output.name}.failures.csv")
    path.unlink(missing_ok=True)
    if failures:
        with replacing(path) as new, open(new, "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("path", "reason"), *failures])


def _tidy(parts: Sequence[Part], wanted: Mapping[str, Item]) -> list[Part]:
    """Keep what is wanted, and give all parts the same columns: readers of the folder would lose
    some otherwise.
    """
    kept = [part for part in parts if part.among(wanted)]
    names: dict[str, None] = {}
    for part in kept:
        for entry in part.among(wanted):
            shard = entry.item.is_shard
            names |= dict.fromkeys(part.labels if shard else labels_of(entry.item.about))
    labels = list(names)
    for part in parts:
        inputs = part.among(wanted)
        if not inputs:
            part.file.unlink()
        elif inputs != part.inputs or part.labels != labels:
            rewrite_part(part, wanted, labels)
    return kept
