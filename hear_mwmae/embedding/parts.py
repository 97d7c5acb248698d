"""Parts of an output: Parquet files, each with the embeddings of some inputs.

A part names in its metadata what made it and the inputs that it holds, so the parts alone tell what
is done. Columns: ``path``, ``seconds``, the labels, ``timestamp`` if requested, ``embedding``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.sources import Item
from ..embedder import Embedder
from ..errors import HearMwmaeError
from ..files import printable, replacing
from .encode import OURS, VALUES, Clip, embed_items, labels_of

#: Keys of the metadata.
PROVENANCE, INPUTS = b"hear_mwmae", b"hear_mwmae.inputs"
#: Rows that a reader of a Parquet file needs in memory at a time.
BLOCK_ROWS = 1024


@dataclass
class Input:
    """A file or a shard in a part, and what became of it."""

    item: Item
    rows: int = 0
    clips: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)  #: names and reasons

    @property
    def failed(self) -> bool:
        """Whether it is a file that could not be embedded, which the next run tries again."""
        return bool(self.failures) and not self.item.is_shard


@dataclass(frozen=True)
class Part:
    """What a part says about itself."""

    file: Path
    provenance: dict[str, str]
    inputs: list[Input]  #: in the order of their rows; a shard is alone
    schema: pa.Schema

    @property
    def labels(self) -> list[str]:
        """Names of the columns of labels."""
        return [name for name in self.schema.names if name not in OURS]


def read_parts(folder: Path) -> list[Part]:
    """All parts in a folder, in the order of their names."""
    return [_read_part(file) for file in sorted(folder.glob("part-*.parquet"))]


def _read_part(file: Path) -> Part:
    try:
        schema = pq.read_schema(file)
        inputs = json.loads(schema.metadata[INPUTS])
        provenance = json.loads(schema.metadata[PROVENANCE])
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        said = f"{file} is damaged, or not a part of embeddings: remove it"
        raise HearMwmaeError(said) from error
    read = [Input(Item(**item), *rest) for item, *rest in inputs]
    return Part(file, provenance, read, schema.remove_metadata())


def embed_part(
    model: Embedder,
    file: Path,
    items: Sequence[Item],
    provenance: dict[str, str],
    progress: Callable[[Clip], object] = lambda clip: None,
) -> Path:
    """Embed some files, or one shard, into the part ``file``, and return its name."""
    timestamps = provenance["timestamps"] != "none"
    inputs = [Input(item) for item in items]
    good: list[Clip] = []
    # Numbers wait on the disk: only the last clip of a shard tells which labels there are.
    with TemporaryFile(dir=file.parent) as numbers:
        for clip in embed_items(model, items, timestamps):
            progress(clip)
            entry = inputs[clip.input]
            if clip.problem:
                entry.failures.append((clip.path, clip.problem))
                continue
            good.append(clip)
            entry.clips += 1
            entry.rows += clip.rows
            for block in clip.embeddings:
                numbers.write(block.numpy().tobytes())
        table = _clip_columns(good)
        if timestamps:
            table = table.append_column("timestamp", _times(good))
        size = model.timestamp_embedding_size if timestamps else model.scene_embedding_size
        schema = table.schema.append(pa.field("embedding", pa.list_(pa.float32(), size)))
        numbers.seek(0)
        _save(Part(file, provenance, inputs, schema), _with_embeddings(table, numbers, size))
    return file


def _clip_columns(clips: list[Clip]) -> pa.Table:
    """Path, seconds and labels of each row; a label that a clip lacks is null."""
    columns = {
        "path": pa.array([clip.path for clip in clips], pa.string()),
        "seconds": pa.array([clip.seconds for clip in clips], pa.float64()),
    }
    for name in dict.fromkeys(chain.from_iterable(clip.labels for clip in clips)):
        columns[name] = pa.array([clip.labels.get(name) for clip in clips], pa.string())
    return _repeated(pa.table(columns), [clip.rows for clip in clips])


def _times(clips: list[Clip]) -> pa.Array:
    times = [clip.times for clip in clips if clip.times is not None]
    return pa.array(np.concatenate([np.zeros(0, np.float32), *times]))


def update_part(part: Part, kept: Mapping[int, Item], labels: Iterable[str]) -> None:
    """Keep some inputs of a part, by their places, with the names and labels that they have now.

    Args:
        labels: the columns of labels that the part is to have.
    """
    table = pq.read_table(part.file).replace_schema_metadata()
    inputs = [replace(part.inputs[place], item=item) for place, item in kept.items()]
    if not inputs[0].item.is_shard:  # whose labels come from itself
        rows = [entry.rows for entry in part.inputs]
        table = table.filter(np.repeat([place in kept for place in range(len(rows))], rows))
        table = table.select([name for name in table.column_names if name in OURS])
        found = [labels_of(entry.item.about) for entry in inputs]
        columns = {"path": pa.array([printable(entry.item.name) for entry in inputs])}
        for name in labels:
            columns[name] = pa.array([given.get(name) for given in found], pa.string())
        now = _repeated(pa.table(columns), [entry.rows for entry in inputs])
        table = table.set_column(0, "path", now["path"])
        for name in labels:
            table = table.append_column(name, now[name])
    for name in labels:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
    values = [name for name in VALUES if name in table.column_names]
    table = table.select(["path", "seconds", *labels, *values])
    batches = table.to_batches(BLOCK_ROWS)
    _save(replace(part, inputs=inputs, schema=table.schema), batches)


def _repeated(clips: pa.Table, rows: list[int]) -> pa.Table:
    """One row per clip -> as many as it has."""
    return clips.take(np.repeat(np.arange(len(rows)), np.array(rows, np.int64)))


def _with_embeddings(table: pa.Table, numbers: IO[bytes], size: int) -> Iterator[pa.RecordBatch]:
    for batch in table.to_batches(BLOCK_ROWS):
        values = np.frombuffer(numbers.read(4 * size * len(batch)), np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(values), size)
        yield batch.append_column("embedding", column)


def _save(part: Part, batches: Iterable[pa.RecordBatch]) -> None:
    inputs = [
        (asdict(entry.item), entry.rows, entry.clips, entry.failures) for entry in part.inputs
    ]
    about = {PROVENANCE: json.dumps(part.provenance), INPUTS: json.dumps(inputs)}
    write_parquet(part.file, part.schema.with_metadata(about), batches)


def write_parquet(file: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write a Parquet file atomically, block by block."""
    others = [name for name in schema.names if name not in VALUES]
    with (
        replacing(file) as temporary,
        open(temporary, "wb") as stream,
        pq.ParquetWriter(stream, schema, use_dictionary=others) as writer,
    ):
        for batch in batches:
            writer.write_batch(batch)
