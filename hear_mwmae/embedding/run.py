"""Inputs -> a table or a folder of Parquet parts, resumable after any interruption."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..audio import audio_seconds
from ..data.sources import Inputs, Item
from ..embedder import Embedder
from ..errors import HearMwmaeError
from ..files import FULL, check_writable, one_at_a_time, printable, write_text
from .groups import embed_items
from .lines import Lines
from .parts import Part, PartWriter, Rows
from .plan import PLAN, check_plan, cut, make_plan
from .ranks import Ranks, joined
from .tables import TABLE_SUFFIXES, table_files, write_failures, write_table

#: Folder in a dataset: readers of Parquet skip names with a leading dot.
INSIDE = ".embed"


@dataclass(frozen=True)
class Output:
    """Destination: a table (.npz, .npy with .csv, .csv, .parquet), or a folder of Parquet files."""

    path: Path

    @property
    def is_dataset(self) -> bool:
        return self.path.suffix not in TABLE_SUFFIXES or self.path.is_dir()

    @property
    def parts(self) -> Path:
        """The folder of the progress so far."""
        return self.path / INSIDE if self.is_dataset else self.path.with_name(f"{self.path.name}.parts")

    @property
    def failures(self) -> Path:
        """The table of failures."""
        return self.path.with_name(f"{self.path.name}.failures.csv")

    @property
    def files(self) -> list[Path]:
        """All written files, except the parts of a dataset."""
        return [self.failures, *([] if self.is_dataset else table_files(self.path))]

    def part_file(self, part: Part) -> Path:
        """Parquet file of a part of a dataset."""
        return self.path / f"part-{part.number:05d}.parquet"

    def check(self) -> None:
        """HearMwmaeError if the output cannot be written: checked before hours of work."""
        if not self.path.absolute().parent.is_dir():
            raise HearMwmaeError(f"cannot write {self.path}: there is no folder {self.path.absolute().parent}")
        is_new = self.is_dataset and self.path.is_dir() and not (self.parts / PLAN).is_file()
        if is_new and (foreign := sorted(path.name for path in self.path.iterdir() if path.name != INSIDE)):
            raise HearMwmaeError(f"{self.path} is not empty (it holds {foreign[0]}): a dataset needs an empty folder")
        # The .csv beside a .npy has its names; for another command, the same .csv is a table.
        other = {".npy": self.path.with_suffix(".csv"), ".csv": self.path.with_suffix(".npy")}.get(self.path.suffix)
        if other and other.exists() and (self.path.suffix == ".csv" or not self.path.exists()):
            raise HearMwmaeError(f"{self.path} and {other} would share their .csv: give another -o, or remove {other}")
        try:
            for file in self.files:
                check_writable(file)
        except OSError as error:
            raise HearMwmaeError(f"cannot write {self.path}: {error.strerror}") from error

    def check_inputs(self, sources: Sequence[str]) -> None:
        """HearMwmaeError if an output file is one of the inputs, such as a manifest."""
        read = {Path(source).resolve() for source in sources}
        for file in self.files:
            if file.resolve() in read:
                raise HearMwmaeError(f"cannot write {file}: it is one of the inputs")


@dataclass(frozen=True)
class Outcome:
    """Result of a run, in its first process."""

    clips: int
    failures: list[tuple[str, str]]


def embed_to(output: Output, model: Embedder, inputs: Inputs, timestamps: bool, progress: bool = True) -> Outcome | None:
    """Embed ``inputs`` into ``output``, together with the other processes of torchrun; None except
    in the first process.

    Raises HearMwmaeError if the folder holds the parts of another run, or if the disk, a server or
    another process fails. The progress is kept.
    """
    plan, items = make_plan(model, inputs.items, timestamps), cut(inputs.items)
    columns = model.timestamp_embedding_size + 1 if timestamps else model.scene_embedding_size
    parts = [Part(output.parts, number, columns) for number in range(len(items))]
    with joined() as ranks, _complaints(output):
        if ranks.rank == 0:
            _begin(output, plan)
        ranks.wait()
        check_plan(output.parts / PLAN, plan)  # in all processes: they could see other inputs
        lock = output.parts / f".rank-{ranks.rank}.lock"
        with one_at_a_time(lock, f"another process is embedding into {output.path}"):
            _embed_parts(output, model, parts, items, timestamps, ranks, progress)
            ranks.wait()
            return None if ranks.rank else _finish(output, Rows(parts, timestamps), inputs)


def show(model: Embedder, inputs: Inputs, timestamps: bool, progress: bool = True) -> list[tuple[str, str]]:
    """Embed ``inputs``, print a line for each clip, and return the failures."""
    lines = Lines(tqdm.write)
    seconds = _seconds(inputs.items)
    with _bar(seconds, inputs.items, progress and sys.stderr.isatty()) as advance:  # otherwise every line would repeat it
        for items in cut(inputs.items):
            embed_items(model, items, seconds, timestamps, lines, progress=advance)
    return [*inputs.failures, *lines.failures]


def _begin(output: Output, plan: dict[str, object]) -> None:
    output.parts.mkdir(parents=True, exist_ok=True)
    if (output.parts / PLAN).is_file():
        check_plan(output.parts / PLAN, plan)
    else:
        for stale in output.parts.glob("part-*"):  # of a folder that was not removed completely
            stale.unlink()
        write_text(output.parts / PLAN, json.dumps(plan, indent=1) + "\n")


def _embed_parts(
    output: Output, model: Embedder, parts: list[Part], items: list[list[Item]], timestamps: bool, ranks: Ranks, progress: bool
) -> None:
    """Embed the unfinished parts of this process."""
    own = [part for part in parts[ranks.rank :: ranks.world] if not _is_finished(output, part, timestamps)]
    left = [item for part in own for item in items[part.number]]
    seconds = _seconds(left)
    with _bar(seconds, left, progress and ranks.rank == 0) as advance:
        for part in own:
            with PartWriter(part) as writer:
                embed_items(model, items[part.number], seconds, timestamps, writer, writer.recordings, advance)
                writer.finish()
            _is_finished(output, part, timestamps)


def _is_finished(output: Output, part: Part, timestamps: bool) -> bool:
    """Whether a part is done. The rows of a dataset are then in a Parquet file."""
    if not part.is_finished():
        return False
    if not output.is_dataset:
        return True
    rows = Rows([part], timestamps)
    if part.rows_file.exists():
        if part.rows_file.stat().st_size:
            write_table(output.part_file(part), rows)
        part.rows_file.unlink()
    elif not output.part_file(part).is_file() and next(rows.clips(), None):
        part.log_file.unlink()  # the file was removed: its rows are embedded again
        return False
    return True


def _finish(output: Output, rows: Rows, inputs: Inputs) -> Outcome:
    if missing := [part for part in rows.parts if not part.is_finished()]:
        raise HearMwmaeError(f"{missing[0].log_file} is missing: do all processes write to the same folder?")
    clips = sum(1 for _ in rows.clips())
    failures = [(printable(name), printable(reason)) for name, reason in inputs.failures] + list(rows.failures())
    if failures:
        write_failures(output.failures, failures)
    else:
        output.failures.unlink(missing_ok=True)
    if not output.is_dataset:
        if clips:
            write_table(output.path, rows)
        shutil.rmtree(output.parts, ignore_errors=True)
    return Outcome(clips, failures)


@contextmanager
def _complaints(output: Output) -> Iterator[None]:
    """Turns errors of the disk into HearMwmaeError with the file name."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*FULL, errno.EACCES, errno.EROFS):
            raise
        reason = f"cannot write {error.filename or output.path}: {error.strerror}"
        raise HearMwmaeError(f"{reason}; progress is kept in {output.parts}, and the same command resumes the run") from error


def _seconds(items: Sequence[Item]) -> dict[str, float | None]:
    """Length of files by url, from their headers."""
    return {item.url: audio_seconds(item.url) for item in items if not item.is_shard}


@contextmanager
def _bar(seconds: dict[str, float | None], items: Sequence[Item], shown: bool) -> Iterator[Callable[[float], object]]:
    """A progress bar in seconds of audio; the total is unknown with shards."""
    total = None if any(item.is_shard for item in items) else sum(seconds[item.url] or 0.0 for item in items)
    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}, {rate_fmt}]" if total else None
    with tqdm(total=total, desc="embed", unit=" s", bar_format=form, disable=not shown) as bar:
        # Some headers announce slightly less than the file holds.
        yield lambda done: bar.update(done if total is None else min(done, total - bar.n))
