"""One table of all parts, .npz, .csv or .parquet.

The provenance is in the metadata of a .parquet, in an entry of a .npz, and in OUT.json beside a
.csv.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ..files import replacing, write_text
from .parts import BLOCK_ROWS, PROVENANCE, Part, write_parquet

TABLE_SUFFIXES = (".npz", ".csv", ".parquet")


def write_table(output: Path, parts: list[Part]) -> None:
    """Write the rows of the parts, one part after the other, in the format of ``output``'s ending.

    Embeddings are in memory block by block.
    """
    provenance = json.dumps(parts[0].provenance)
    schema = pq.read_schema(parts[0].file).with_metadata({PROVENANCE: provenance})
    if output.suffix == ".parquet":
        write_parquet(output, schema, _batches(parts))
        return
    with replacing(output) as temporary, open(temporary, "wb") as stream:
        if output.suffix == ".csv":
            write_text(output.with_name(f"{output.name}.json"), provenance + "\n")
            _write_csv(stream, schema, parts)
        else:
            _write_npz(stream, schema, parts, provenance)


def _write_csv(stream: IO[bytes], schema: pa.Schema, parts: list[Part]) -> None:
    """A column for each number of the embedding, with the digits that make it exact."""
    size = schema.field("embedding").type.list_size
    numbers = [pa.field(f"embedding_{place}", pa.float32()) for place in range(size)]
    flat = pa.schema([*list(schema)[:-1], *numbers])
    with pyarrow.csv.CSVWriter(stream, flat) as writer:
        for batch in _batches(parts):
            values = batch["embedding"].flatten().to_numpy().reshape(-1, size)
            columns = [*batch.columns[:-1], *map(pa.array, values.T.copy())]
            writer.write_batch(pa.record_batch(columns, flat))


def _write_npz(stream: IO[bytes], schema: pa.Schema, parts: list[Part], provenance: str) -> None:
    """As `numpy.savez` does, which takes no column of the name "file"."""
    others = schema.names[:-1]
    table = pa.concat_tables([pq.read_table(part.file, columns=others) for part in parts])
    columns = {name: _array(table[name]) for name in others}
    with zipfile.ZipFile(stream, "w") as archive:
        for name, values in (columns | {"provenance": np.array(provenance)}).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, values, allow_pickle=False)
        shape = len(table), schema.field("embedding").type.list_size
        with archive.open("embedding.npy", "w", force_zip64=True) as entry:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(entry, header)
            for batch in _batches(parts, ["embedding"]):
                entry.write(batch["embedding"].flatten().to_numpy().astype("<f4", copy=False).data)


def _batches(parts: list[Part], columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    for part in parts:
        file = pq.ParquetFile(part.file, pre_buffer=False)  # which would read it as a whole
        yield from file.iter_batches(BLOCK_ROWS, columns=columns)


def _array(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_string(column.type):
        return np.array(column.fill_null("").to_pylist())
    return column.to_numpy()
