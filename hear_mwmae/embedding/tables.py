"""One table of all parts, .npz, .csv or .parquet, written without being in memory as a whole.

The provenance is in the metadata of a .parquet, in an entry of a .npz, and in OUT.json beside a
.csv.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from ..files import replacing, write_text
from .parts import PROVENANCE, write_parquet

TABLE_SUFFIXES = (".npz", ".csv", ".parquet")

#: Reads some columns of a table, as often as needed.
Reader = Callable[[list[str]], Iterator[pa.RecordBatch]]


def write_table(output: Path, schema: pa.Schema, read: Reader, provenance: dict[str, str]) -> None:
    """Write a table in the format of ``output``'s ending; its last column is the embedding."""
    text = json.dumps(provenance)
    if output.suffix == ".parquet":
        write_parquet(output, schema.with_metadata({PROVENANCE: text}), read(schema.names))
        return
    if output.suffix == ".csv":
        write_text(output.with_name(f"{output.name}.json"), text + "\n")
    with replacing(output) as temporary, open(temporary, "wb") as stream:
        if output.suffix == ".csv":
            _write_csv(stream, schema, read)
        else:
            _write_npz(stream, schema, read, text)


def _write_npz(stream: IO[bytes], schema: pa.Schema, read: Reader, provenance: str) -> None:
    """As `numpy.savez` does, with a fixed date, so that equal tables are equal files."""
    with zipfile.ZipFile(stream, "w") as archive:

        def entry(name: str) -> IO[bytes]:
            return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)

        for name in schema.names[:-1]:
            column = pa.Table.from_batches(read([name]))[name]
            if pa.types.is_string(column.type):
                values = np.array(column.fill_null("").to_pylist())
            else:
                values = column.to_numpy()
            with entry(name) as file:
                np.lib.format.write_array(file, values)
        shape = len(column), schema.types[-1].list_size
        with entry("embedding") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for batch in read(["embedding"]):
                file.write(batch["embedding"].flatten().to_numpy().astype("<f4", copy=False).data)
        with entry("provenance") as file:
            np.lib.format.write_array(file, np.array(provenance))


def _write_csv(stream: IO[bytes], schema: pa.Schema, read: Reader) -> None:
    """A column for each number of the embedding, with the digits that make it exact."""
    size = schema.types[-1].list_size
    numbers = [pa.field(f"embedding_{place}", pa.float32()) for place in range(size)]
    flat = pa.schema([*list(schema)[:-1], *numbers])
    with pa_csv.CSVWriter(stream, flat) as writer:
        for batch in read(schema.names):
            values = batch["embedding"].flatten().to_numpy().reshape(len(batch), size)
            columns = [*batch.columns[:-1], *map(pa.array, values.T.copy())]
            writer.write_batch(pa.record_batch(columns, flat))
