"""Progress of a run on the disk: the rows so far, consistent after any interruption.

The list of inputs alone determines the parts of a run. A part is two append-only files:

    part-00012.rows     float32 rows: the timestamp in milliseconds, if any, then the embedding
    part-00012.jsonl    a line per group of recordings: its clips, their rows, its failures

Invariant: the rows of a group are on the disk before the line that counts them. A resumed run
truncates both files after the last complete line, and embeds the following recordings again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from types import TracebackType

import numpy as np

from ..errors import HearMwmaeError

#: The last line of a part.
END = b'{"end": true}\n'
#: Rows in memory while a table is written.
BLOCK_ROWS = 4096


@dataclass
class Group:
    """Recordings that are embedded together, in their order, and failures."""

    clips: list[tuple[str, int]] = field(default_factory=list)  #: name, rows
    failures: list[tuple[str, str]] = field(default_factory=list)  #: name, reason

    @property
    def recordings(self) -> int:
        """Number of recordings, failures included."""
        return len(self.clips) + len(self.failures)


@dataclass(frozen=True)
class Part:
    """Part ``number`` of the run with its parts in ``folder``; a row has ``columns`` float32
    numbers.
    """

    folder: Path
    number: int
    columns: int

    @property
    def rows_file(self) -> Path:
        return self.folder / f"part-{self.number:05d}.rows"

    @property
    def log_file(self) -> Path:
        return self.folder / f"part-{self.number:05d}.jsonl"

    def groups(self) -> Iterator[Group]:
        """Groups in the log, up to its last complete line."""
        return (group for group, _ in self._lines())

    def is_finished(self) -> bool:
        """Whether all recordings of the part are embedded, or listed as failures."""
        try:
            with open(self.log_file, "rb") as stream:
                stream.seek(0, os.SEEK_END)
                stream.seek(max(stream.tell() - len(END), 0))
                return stream.read() == END
        except FileNotFoundError:
            return False

    def damage(self) -> HearMwmaeError:
        """The error of missing rows."""
        return HearMwmaeError(f"{self.rows_file} is shorter than {self.log_file} says: remove both to embed the part again")

    def _lines(self) -> Iterator[tuple[Group, int]]:
        """Groups, each with the size of the log up to its end, in bytes."""
        if not self.log_file.exists():
            return
        read = 0
        with open(self.log_file, "rb") as stream:
            for line in stream:
                if not line.endswith(b"\n") or line == END:
                    return
                read += len(line)
                content = json.loads(line)
                yield Group([(*clip,) for clip in content["clips"]], [(*pair,) for pair in content["failures"]]), read


class PartWriter:
    """Appends rows, and then their group.

    Attributes:
        recordings: number of recordings in the part so far.
    """

    def __init__(self, part: Part) -> None:
        self.part, self.recordings, rows, log_bytes = part, 0, 0, 0
        for group, log_bytes in part._lines():  # noqa: B007, the last one counts
            self.recordings += group.recordings
            rows += sum(count for _, count in group.clips)
        self._whole = rows * part.columns * 4
        # Unbuffered: closing the file must not repeat a write that a full disk refused.
        self._rows, self._log = _grown(part.rows_file), _grown(part.log_file)
        if self._rows.seek(0, os.SEEK_END) < self._whole:
            raise part.damage()
        self._log.truncate(log_bytes)
        self._log.seek(log_bytes)
        self.rollback()

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._rows.close()
        self._log.close()

    def append(self, embeddings: np.ndarray, timestamps: np.ndarray | None = None) -> None:
        """Rows of the next group: (n, size) embeddings, and (n,) timestamps if the part
        has them.
        """
        columns = embeddings if timestamps is None else np.concatenate([timestamps[:, None], embeddings], axis=1)
        assert columns.shape[1] == self.part.columns
        _write(self._rows, np.ascontiguousarray(columns, "<f4").data.cast("B"))

    def commit(self, group: Group) -> None:
        """Assign the rows since the last commit to ``group``.

        Both are on the disk when this returns.
        """
        os.fsync(self._rows)
        line = json.dumps({"clips": group.clips, "failures": group.failures}) + "\n"
        _write(self._log, memoryview(line.encode()))
        os.fsync(self._log)
        self._whole = self._rows.tell()
        self.recordings += group.recordings

    def rollback(self) -> None:
        """Discard the rows since the last commit."""
        self._rows.truncate(self._whole)
        self._rows.seek(self._whole)

    def finish(self) -> None:
        """Mark the part as finished."""
        _write(self._log, memoryview(END))
        os.fsync(self._log)


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a table."""

    paths: list[str]  #: of the clips
    counts: list[int]  #: how many of the rows belong to each of them
    timestamps: np.ndarray | None  #: (n,) float32 milliseconds
    embeddings: np.ndarray  #: (n, size) float32


@dataclass(frozen=True)
class Rows:
    """The rows of parts as one table, in the order of the inputs, read in blocks."""

    parts: Sequence[Part]
    timestamps: bool  #: whether the first column is the timestamp

    @property
    def size(self) -> int:
        """Size of an embedding."""
        return self.parts[0].columns - self.timestamps

    def clips(self) -> Iterator[tuple[str, int]]:
        """Names and numbers of rows."""
        return (clip for part in self.parts for group in part.groups() for clip in group.clips)

    def failures(self) -> Iterator[tuple[str, str]]:
        """Names and reasons."""
        return (failure for part in self.parts for group in part.groups() for failure in group.failures)

    def blocks(self) -> Iterator[Block]:
        """Blocks of ``BLOCK_ROWS`` rows across parts and clips; each block is valid until the next
        one.
        """
        buffer = np.empty((BLOCK_ROWS, self.parts[0].columns), "<f4")
        paths: list[str] = []
        counts: list[int] = []
        filled = 0
        for part in self.parts:
            with open(part.rows_file, "rb") as stream:
                for group in part.groups():
                    for path, rows in group.clips:
                        while rows:
                            count = min(rows, BLOCK_ROWS - filled)
                            view = buffer[filled : filled + count]
                            if stream.readinto(view.data.cast("B")) != view.nbytes:
                                raise part.damage()
                            paths.append(path)
                            counts.append(count)
                            filled, rows = filled + count, rows - count
                            if filled == BLOCK_ROWS:
                                yield self._block(paths, counts, buffer)
                                paths, counts, filled = [], [], 0
        if filled:
            yield self._block(paths, counts, buffer[:filled])

    def _block(self, paths: list[str], counts: list[int], rows: np.ndarray) -> Block:
        return Block(paths, counts, rows[:, 0] if self.timestamps else None, rows[:, int(self.timestamps) :])


def _grown(path: Path) -> FileIO:
    """A new or existing file, for reading and writing."""
    return open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)


def _write(stream: FileIO, content: memoryview) -> None:
    while len(content):
        content = content[stream.write(content) :]
