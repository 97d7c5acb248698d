"""Parts of an output: Parquet files, each with the embeddings of some inputs.

A part names in its metadata what made it and the inputs that it holds, so the parts alone tell what
is done. Columns: ``path``, ``seconds``, the labels, ``timestamp`` if requested, ``embedding``.
"""

import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
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
from ..files import replacing
from .encode import OURS, VALUES, Clip, embed_items

PART = re.compile(r"part-\d{5,}\.parquet")
#: Keys of the metadata.
PROVENANCE, INPUTS = b"hear_mwmae", b"hear_mwmae.inputs"
#: Rows that a reader of a Parquet file needs in memory at a time.
BLOCK_ROWS = 1024


Failures = list[tuple[str, str]]  #: names and reasons


@dataclass
class Input:
    """A file or a shard, and what became of it."""

    item: Item
    rows: int = 0
    clips: int = 0
    failures: Failures = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """What a part says about itself."""

    file: Path
    provenance: dict[str, str]
    inputs: list[Input]  #: in the order of their rows; a shard is alone
    labels: list[str]  #: names of their columns

    def among(self, wanted: Container[str]) -> list[Input]:
        """Its inputs whose identities are wanted."""
        return [entry for entry in self.inputs if entry.item.identity in wanted]


def part_files(folder: Path) -> list[Path]:
    """The files of the parts in a folder, sorted; none if there is no folder."""
    return sorted(path for path in folder.glob("part-*") if PART.fullmatch(path.name))


def read_parts(folder: Path) -> list[Part]:
    """All parts in a folder, in the order of their names."""
    return [read_part(file) for file in part_files(folder)]


def read_part(file: Path) -> Part:
    """What a part says about itself; HearMwmaeError if it is damaged."""
    try:
        schema = pq.read_schema(file)
        provenance = json.loads(schema.metadata[PROVENANCE])
        entries = json.loads(schema.metadata[INPUTS])
        inputs = [Input(Item(**entry.pop("item")), **entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno:  # pyarrow's, about content, have no number
            raise
        said = f"{file} is damaged, or not a part of embeddings: remove it"
        raise HearMwmaeError(said) from error
    return Part(file, provenance, inputs, [name for name in schema.names if name not in OURS])


def embed_part(
    model: Embedder,
    file: Path,
    items: Sequence[Item],
    provenance: dict[str, str],
    progress: Callable[[Clip], object] = lambda clip: None,
) -> Failures:
    """Embed some files, or one shard, into the part ``file``.

    Returns:
        The failures of inputs that gave no clip. They are not in the part, so the next run tries
        them again.
    """
    timestamps = provenance["timestamps"] != "none"
    size = model.timestamp_embedding_size if timestamps else model.scene_embedding_size
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
        if good:
            table = _columns(good)
            schema = table.schema.append(pa.field("embedding", pa.list_(pa.float32(), size)))
            schema = _described(schema, provenance, [entry for entry in inputs if entry.clips])
            numbers.seek(0)
            write_parquet(file, schema, _with_embeddings(table, numbers, size))
    return [failure for entry in inputs if not entry.clips for failure in entry.failures]


def _columns(clips: list[Clip]) -> pa.Table:
    """The columns of each row but its embedding; a label that a clip lacks is null."""
    columns: dict[str, list] = {
        "path": [clip.path for clip in clips],
        "seconds": [clip.seconds for clip in clips],
    }
    for name in dict.fromkeys(chain.from_iterable(clip.labels for clip in clips)):
        columns[name] = [clip.labels.get(name) for clip in clips]
    rows = np.repeat(np.arange(len(clips)), [clip.rows for clip in clips])
    table = pa.table(columns).take(rows)
    times = [clip.times for clip in clips if clip.times is not None]
    if times:
        table = table.append_column("timestamp", pa.array(np.concatenate(times)))
    return table


def _with_embeddings(table: pa.Table, numbers: IO[bytes], size: int) -> Iterator[pa.RecordBatch]:
    for batch in table.to_batches(BLOCK_ROWS):
        values = np.frombuffer(numbers.read(4 * size * len(batch)), np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(values), size)
        yield batch.append_column("embedding", column)


def rewrite_part(part: Part, wanted: Container[str], labels: Iterable[str]) -> None:
    """Keep the wanted inputs of a part, by their identities.

    Args:
        labels: the columns of labels that the part is to have.
    """
    table = pq.read_table(part.file)
    kept = [entry.item.identity in wanted for entry in part.inputs]
    table = table.filter(np.repeat(kept, [entry.rows for entry in part.inputs]))
    for name in labels:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
    values = [name for name in VALUES if name in table.column_names]
    table = table.select(["path", "seconds", *labels, *values])
    schema = _described(table.schema, part.provenance, part.among(wanted))
    write_parquet(part.file, schema, table.to_batches(BLOCK_ROWS))


def _described(schema: pa.Schema, provenance: dict[str, str], inputs: list[Input]) -> pa.Schema:
    """The schema of a part, with what made it and its inputs."""
    entries = json.dumps([asdict(entry) for entry in inputs])
    return schema.with_metadata({PROVENANCE: json.dumps(provenance), INPUTS: entries})


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
