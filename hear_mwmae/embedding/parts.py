"""Parts of an output: Parquet files, each with the embeddings of some inputs.

A part names in its metadata what made it and the inputs that it holds, so the parts alone tell what
is done. Columns: ``path``, ``seconds``, the labels, ``timestamp`` if requested, ``embedding``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.sources import Item
from ..embedder import Embedder
from ..errors import HearMwmaeError
from ..files import printable, replacing
from .encode import OURS, VALUES, Clip, embed_items, no_rows, rows_of

#: Keys of the metadata.
PROVENANCE, INPUTS = b"hear_mwmae", b"hear_mwmae.inputs"
#: Rows that a reader of a Parquet file needs in memory at a time.
BLOCK_ROWS = 1024
#: Bytes of embeddings after which a part ends.
PART_BYTES = 64 << 20


class Done(NamedTuple):
    """An input in a part, with its numbers of rows and clips there."""

    item: Item
    rows: int
    clips: int
    piece: int = 0  #: which part of a large shard this is
    last: bool = True  #: whether it is the last one


class Failure(NamedTuple):
    """A clip that could not be embedded."""

    url: str  #: of the file or shard
    path: str
    reason: str


@dataclass(frozen=True)
class Part:
    """What a part says about itself."""

    file: Path
    provenance: dict[str, str]
    inputs: list[Done]  #: in the order of their rows
    failures: list[Failure]
    labels: list[str]  #: names of columns


def read_parts(folder: Path) -> list[Part]:
    """All parts in a folder, in the order of their names."""
    return [_read_part(file) for file in sorted(folder.glob("part-*.parquet"))]


def _read_part(file: Path) -> Part:
    try:
        schema = pq.read_schema(file)
        about = json.loads(schema.metadata[INPUTS])
        provenance = json.loads(schema.metadata[PROVENANCE])
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        raise HearMwmaeError(
            f"{file} is damaged, or not a part of embeddings: remove it"
        ) from error
    inputs = [Done(Item(**item), *rest) for item, *rest in about["inputs"]]
    failures = [Failure(*failure) for failure in about["failures"]]
    return Part(file, provenance, inputs, failures, _labels(schema))


def embed_part(
    model: Embedder,
    stem: Path,
    items: Sequence[Item],
    provenance: dict[str, str],
    progress: Callable[[Clip], object] = lambda clip: None,
) -> list[Failure]:
    """Embed some files, or one shard, into STEM-0000.parquet, and more if that becomes large.

    Returns:
        The files that could not be embedded. The failures inside a shard are in its parts.
    """
    timestamps = provenance["timestamps"] != "none"
    clips = embed_items(model, items, timestamps)
    failures: list[Failure] = []
    for number, (piece, last) in enumerate(_pieces(clips, progress)):
        good = [(clip.item, clip.rows) for clip in piece if clip.rows is not None]
        bad = [clip for clip in piece if clip.rows is None]
        failed = [Failure(clip.item.url, clip.path, clip.problem) for clip in bad]
        table = _joined([no_rows(model, timestamps), *(rows for _, rows in good)])
        inputs = [Done(item, len(rows), 1) for item, rows in good]
        if items[0].is_shard:
            inputs = [Done(items[0], len(table), len(good), number, last)]
        else:
            failures += failed
        if inputs:
            file = stem.with_name(f"{stem.name}-{number:04d}.parquet")
            _save(Part(file, provenance, inputs, failed, _labels(table.schema)), table)
    return failures


def rewrite_part(part: Part, kept: Mapping[int, Item], labels: list[str]) -> None:
    """Keep some inputs of a part, by their places in it, with the labels that they have now."""
    table = pq.read_table(part.file)
    values = [name for name in table.column_names if name in VALUES]
    tables = [pa.schema([(label, pa.string()) for label in labels]).empty_table()]
    inputs: list[Done] = []
    start = 0
    for place, done in enumerate(part.inputs):
        rows = table.slice(start, done.rows)
        start += done.rows
        if place in kept:
            item = kept[place]
            if not item.is_shard:  # whose labels come from itself
                name, seconds = printable(item.name), rows["seconds"][0].as_py()
                rows = rows_of(rows.select(values), name, seconds, item.about)
            tables.append(rows)
            inputs.append(done._replace(item=item))
    _save(dataclasses.replace(part, inputs=inputs, labels=labels), _joined(tables))


def _pieces(
    clips: Iterator[Clip], progress: Callable[[Clip], object]
) -> Iterator[tuple[list[Clip], bool]]:
    """Clips with up to ``PART_BYTES`` of embeddings, and whether these are the last ones."""
    held: list[Clip] = []
    size = 0
    for clip in clips:
        progress(clip)
        held.append(clip)
        size += 0 if clip.rows is None else clip.rows.nbytes
        if size > PART_BYTES:
            yield held, False
            held, size = [], 0
    yield held, True


def _joined(tables: list[pa.Table]) -> pa.Table:
    """Rows of all tables; a label that one of them lacks is null."""
    return pa.concat_tables(tables, promote_options="default")


def _labels(schema: pa.Schema) -> list[str]:
    return [name for name in schema.names if name not in OURS]


def _save(part: Part, table: pa.Table) -> None:
    others = ["path", "seconds", *part.labels]
    table = table.select([*others, *(name for name in VALUES if name in table.column_names)])
    inputs = [(asdict(item), *rest) for item, *rest in part.inputs]
    about = json.dumps({"inputs": inputs, "failures": part.failures})
    table = table.replace_schema_metadata({PROVENANCE: json.dumps(part.provenance), INPUTS: about})
    with replacing(part.file) as temporary, open(temporary, "wb") as stream:
        pq.write_table(table, stream, BLOCK_ROWS, use_dictionary=others)
