"""One table of all parts, .npz, .csv or .parquet.

The provenance is in the metadata of a .parquet, in an entry of a .npz, and in OUT.json beside a
.csv.
"""

from __future__ import annotations

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

    A .parquet is written in blocks; .npz and .csv have the whole table in memory.
    """
    provenance = json.dumps(parts[0].provenance)
    schema = pq.read_schema(parts[0].file).with_metadata({PROVENANCE: provenance})
    if output.suffix == ".parquet":
        write_parquet(output, schema, _batches(parts))
        return
    table = pa.Table.from_batches(_batches(parts), schema)
    size = schema.field("embedding").type.list_size
    embeddings = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, size)
    table = table.drop_columns("embedding")
    with replacing(output) as temporary, open(temporary, "wb") as stream:
        if output.suffix == ".csv":
            write_text(output.with_name(f"{output.name}.json"), provenance + "\n")
            _write_csv(stream, table, embeddings)
        else:
            _write_npz(stream, table, embeddings, provenance)


def _write_csv(stream: IO[bytes], table: pa.Table, embeddings: np.ndarray) -> None:
    """A column for each number of the embedding, with the digits that make it exact."""
    # Not a dictionary: a label may have the name of a column of numbers.
    names = [*table.column_names, *(f"embedding_{place}" for place in range(embeddings.shape[1]))]
    columns = [*table.columns, *map(pa.array, embeddings.T)]
    pyarrow.csv.write_csv(pa.table(columns, names), stream)


def _write_npz(stream: IO[bytes], table: pa.Table, embeddings: np.ndarray, provenance: str) -> None:
    """As `numpy.savez` does, which takes no column of the name "file"."""
    columns = {name: _array(table[name]) for name in table.column_names}
    columns |= {"embedding": embeddings, "provenance": np.array(provenance)}
    with zipfile.ZipFile(stream, "w") as archive:
        for name, values in columns.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, values, allow_pickle=False)


def _batches(parts: list[Part]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        file = pq.ParquetFile(part.file, pre_buffer=False)  # which would read it as a whole
        yield from file.iter_batches(BLOCK_ROWS)


def _array(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_string(column.type):
        return np.array(column.fill_null("").to_pylist())
    return column.to_numpy()
