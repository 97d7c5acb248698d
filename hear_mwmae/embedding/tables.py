"""One table of all parts: .npz, .npy, .csv or .parquet.

A .npy holds the embeddings alone; the other columns are in OUT.csv. The provenance is in the
metadata of a .parquet, in an entry of a .npz, and in OUT.json beside a .npy or .csv.
"""

from __future__ import annotations

import csv
import json
import zipfile
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ..files import replacing, write_text
from .parts import BLOCK_ROWS, PROVENANCE

TABLE_SUFFIXES = (".npz", ".npy", ".csv", ".parquet")


def write_table(output: Path, table: pa.Table, provenance: dict[str, str]) -> None:
    """Write a table in the format of ``output``'s ending."""
    text = json.dumps(provenance)
    others = table.drop_columns("embedding")
    if output.suffix in (".npy", ".csv"):
        write_text(_beside(output, ".json"), text + "\n")
    if output.suffix == ".npy":
        with replacing(_beside(output, ".csv")) as temporary:
            pa_csv.write_csv(others, temporary)
    with replacing(output) as temporary, open(temporary, "wb") as stream:
        if output.suffix == ".parquet":
            named = table.replace_schema_metadata({PROVENANCE: text})
            pq.write_table(named, stream, BLOCK_ROWS, use_dictionary=others.column_names)
        elif output.suffix == ".csv":
            _write_csv(stream, table)
        elif output.suffix == ".npy":
            _write_embeddings(stream, table)
        else:
            _write_npz(stream, table, text)


def read_provenance(output: Path) -> dict[str, str]:
    """The provenance of a table; empty if it has none."""
    try:
        if output.suffix == ".parquet":
            text = pq.read_schema(output).metadata[PROVENANCE]
        elif output.suffix == ".npz":
            with np.load(output) as file:
                text = str(file["provenance"])
        else:
            text = _beside(output, ".json").read_text(encoding="utf-8")
        return json.loads(text)
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
        return {}


def write_failures(path: Path, failures: list[tuple[str, str]]) -> None:
    """Write the table of failures and their reasons; no table if there are none."""
    path.unlink(missing_ok=True)
    if failures:
        with (
            replacing(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file).writerows([("path", "reason"), *failures])


def _beside(output: Path, suffix: str) -> Path:
    return output.with_name(output.name + suffix)


def _write_embeddings(stream: IO[bytes], table: pa.Table) -> None:
    """As a .npy file."""
    column = table["embedding"]
    shape = (len(table), column.type.list_size)
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    for chunk in column.chunks:
        stream.write(chunk.flatten().to_numpy().astype("<f4", copy=False).data)


def _write_npz(stream: IO[bytes], table: pa.Table, provenance: str) -> None:
    """As `numpy.savez` does, with a fixed date, so that equal tables are equal files."""
    with zipfile.ZipFile(stream, "w") as archive:

        def entry(name: str) -> IO[bytes]:
            return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)

        for name, column in zip(table.column_names, table.columns, strict=True):
            with entry(name) as file:
                if name == "embedding":
                    _write_embeddings(file, table)
                elif pa.types.is_string(column.type):
                    np.lib.format.write_array(file, np.array(column.fill_null("").to_pylist()))
                else:
                    np.lib.format.write_array(file, column.to_numpy())
        with entry("provenance") as file:
            np.lib.format.write_array(file, np.array(provenance))


def _write_csv(stream: IO[bytes], table: pa.Table) -> None:
    """A column for each number of the embedding, with the digits that make it exact."""
    blocks = map(_flat, table.to_batches(BLOCK_ROWS))
    first = next(blocks)
    with pa_csv.CSVWriter(stream, first.schema) as writer:
        for block in chain([first], blocks):
            writer.write_table(block)


def _flat(batch: pa.RecordBatch) -> pa.Table:
    columns = {name: batch[name] for name in batch.schema.names if name != "embedding"}
    numbers = batch["embedding"].flatten().to_numpy().reshape(len(batch), -1)
    for place, values in enumerate(numbers.T.copy()):
        columns[f"embedding_{place}"] = pa.array(values)
    return pa.table(columns)
