"""Inputs -> a table, or a folder of Parquet parts, that any interruption leaves for the same command to go on with."""

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
from .engine import embed_items
from .lines import Lines
from .parts import Part, Rows
from .plan import PLAN, check_plan, cut, make_plan
from .ranks import Ranks, joined
from .tables import TABLE_SUFFIXES, table_files, write_failures, write_table

#: In a dataset's folder: readers of Parquet pass over names that begin so.
INSIDE = ".embed"


@dataclass(frozen=True)
class Output:
    """Where embeddings go: a table (.npz, .npy with .csv, .csv, .parquet), or a folder of Parquet files."""

    path: Path

    @property
    def is_dataset(self) -> bool:
        return self.path.suffix not in TABLE_SUFFIXES or self.path.is_dir()

    @property
    def parts(self) -> Path:
        """The folder of what is embedded so far."""
        return self.path / INSIDE if self.is_dataset else self.path.with_name(f"{self.path.name}.parts")

    @property
    def failures(self) -> Path:
        """The table of what could not be embedded."""
        return self.path.with_name(f"{self.path.name}.failures.csv")

    @property
    def files(self) -> list[Path]:
        """All that is written, but for a dataset's parts."""
        return [self.failures, *([] if self.is_dataset else table_files(self.path))]

    def part_file(self, part: Part) -> Path:
        """Of a dataset."""
        return self.path / f"part-{part.number:05d}.parquet"

    def check(self) -> None:
        """HearMwmaeError where this cannot be written, before hours of work go into it."""
        if not self.path.absolute().parent.is_dir():
            raise HearMwmaeError(f"cannot write {self.path}: there is no folder {self.path.absolute().parent}")
        is_new = self.is_dataset and self.path.is_dir() and not (self.parts / PLAN).is_file()
        if is_new and (foreign := sorted(path.name for path in self.path.iterdir() if path.name != INSIDE)):
            raise HearMwmaeError(f"{self.path} is not empty (it holds {foreign[0]}): a dataset needs a folder of its own")
        # A .npy has its names in the .csv beside it, which is a table of its own by another command.
        other = {".npy": self.path.with_suffix(".csv"), ".csv": self.path.with_suffix(".npy")}.get(self.path.suffix)
        if other and other.exists() and (self.path.suffix == ".csv" or not self.path.exists()):
            raise HearMwmaeError(f"{self.path} and {other} would share their .csv: give another -o, or remove {other}")
        try:
            for file in self.files:
                check_writable(file)
        except OSError as error:
            raise HearMwmaeError(f"cannot write {self.path}: {error.strerror}") from error

    def check_inputs(self, sources: Sequence[str]) -> None:
        """HearMwmaeError where a file that is to be written is one of the inputs: a manifest, say."""
        read = {Path(source).resolve() for source in sources}
        for file in self.files:
            if file.resolve() in read:
                raise HearMwmaeError(f"cannot write {file}: it is one of the inputs")


@dataclass(frozen=True)
class Outcome:
    """What a run has done, as its first process knows it."""

    clips: int
    failures: list[tuple[str, str]]


def embed_to(output: Output, model: Embedder, inputs: Inputs, timestamps: bool, progress: bool = True) -> Outcome | None:
    """Embed ``inputs`` into ``output``, together with the other processes of torchrun; None in all of these but the first.

    Raises HearMwmaeError where the parts of another run are in the way, or the disk, a server or another process fails: what was
    embedded is kept.
    """
    plan, items = make_plan(model, inputs.items, timestamps), cut(inputs.items)
    columns = model.timestamp_embedding_size + 1 if timestamps else model.scene_embedding_size
    parts = [Part(output.parts, number, columns) for number in range(len(items))]
    with joined() as ranks, _complaints(output):
        if ranks.rank == 0:
            _begin(output, plan)
        ranks.wait()
        check_plan(output.parts / PLAN, plan)  # of all processes: they could see other inputs
        lock = output.parts / f".rank-{ranks.rank}.lock"
        with one_at_a_time(lock, f"another process is embedding into {output.path}"):
            _embed_parts(output, model, parts, items, timestamps, ranks, progress)
        ranks.wait()
    if ranks.rank:
        return None
    with _complaints(output):
        return _finish(output, Rows(parts, timestamps), inputs)


def show(model: Embedder, inputs: Inputs, timestamps: bool, progress: bool = True) -> list[tuple[str, str]]:
    """Embed ``inputs``, and print a line for each clip; what could not be embedded is returned."""
    lines = Lines(tqdm.write)
    seconds = _seconds(inputs.items)
    with _bar(seconds, inputs.items, progress and sys.stderr.isatty()) as advance:  # or it would come once more with every line
        for items in cut(inputs.items):
            embed_items(model, items, seconds, timestamps, lines, progress=advance)
    return [*inputs.failures, *lines.failures]


def _begin(output: Output, plan: dict[str, object]) -> None:
    output.parts.mkdir(parents=True, exist_ok=True)
    if (output.parts / PLAN).is_file():
        check_plan(output.parts / PLAN, plan)
    else:
        write_text(output.parts / PLAN, json.dumps(plan, indent=1) + "\n")


def _embed_parts(
    output: Output, model: Embedder, parts: list[Part], items: list[list[Item]], timestamps: bool, ranks: Ranks, progress: bool
) -> None:
    """Those of this process that are not finished yet."""
    own = [part for part in parts[ranks.rank :: ranks.world] if not _is_finished(output, part, timestamps)]
    left = [item for part in own for item in items[part.number]]
    seconds = _seconds(left)
    with _bar(seconds, left, progress and ranks.rank == 0) as advance:
        for part in own:
            with part.writer() as writer:
                embed_items(model, items[part.number], seconds, timestamps, writer, writer.recordings, advance)
                writer.finish()
            _is_finished(output, part, timestamps)


def _is_finished(output: Output, part: Part, timestamps: bool) -> bool:
    """Whether a part is done; of a dataset, its rows are then in a Parquet file."""
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
        part.log_file.unlink()  # somebody has removed the file: its rows are embedded again
        return False
    return True


def _finish(output: Output, rows: Rows, inputs: Inputs) -> Outcome:
    if missing := [part for part in rows.parts if not part.is_finished()]:
        raise HearMwmaeError(f"{missing[0].log_file} is not there: do all processes write to the same folder?")
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
    """A disk's errors come with what it could not write."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*FULL, errno.EACCES, errno.EROFS):
            raise
        reason = f"cannot write {error.filename or output.path}: {error.strerror}"
        raise HearMwmaeError(f"{reason}; what was embedded is kept in {output.parts}, and the same command goes on") from error


def _seconds(items: Sequence[Item]) -> dict[str, float | None]:
    """By url, what the headers of files say."""
    return {item.url: audio_seconds(item.url) for item in items if not item.is_shard}


@contextmanager
def _bar(seconds: dict[str, float | None], items: Sequence[Item], shown: bool) -> Iterator[Callable[[float], object]]:
    """Is told the seconds of audio that are done, and shows their sum; of how many is not known with shards."""
    total = None if any(item.is_shard for item in items) else sum(seconds[item.url] or 0.0 for item in items)
    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}, {rate_fmt}]" if total else None
    with tqdm(total=total, desc="embed", unit=" s", bar_format=form, disable=not shown) as bar:
        # Of some formats, headers tell a little less than is there.
        yield lambda done: bar.update(done if total is None else min(done, total - bar.n))
