"""Tables of embeddings: .npz, .npy with a .csv of names, .csv, .parquet.

Written as streams, atomically.

Scenes: the columns ``path`` and ``embedding``, a row per clip. Timestamps: ``path``, ``timestamp``
(milliseconds) and ``embedding``, a row per time step.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np

from ..files import replacing
from .parts import BLOCK_ROWS, Rows

TABLE_SUFFIXES = (".npz", ".npy", ".csv", ".parquet")


def table_files(output: Path) -> list[Path]:
    """The files that `write_table` writes."""
    return [output, output.with_suffix(".csv")] if output.suffix == ".npy" else [output]


def write_table(output: Path, rows: Rows) -> None:
    """Write the table in the format of ``output``'s ending. OSError if the disk fails."""
    writers: dict[str, Callable[..., None]] = {
        ".npz": _write_npz,
        ".npy": _write_npy,
        ".csv": _write_csv,
        ".parquet": _write_parquet,
    }
    with ExitStack() as moved, ExitStack() as closed:  # closed first
        # The table itself is moved first: names alone would be those of another table.
        files = [moved.enter_context(replacing(file)) for file in reversed(table_files(output))][::-1]
        writers[output.suffix](rows, *(closed.enter_context(open(file, "wb")) for file in files))


def _write_npz(rows: Rows, stream: IO[bytes]) -> None:
    """An archive of arrays, as `numpy.savez` makes it, that depends only on the rows."""
    counts, width = 0, 1
    for path, count in rows.clips():
        counts, width = counts + count, max(width, len(path))
    with zipfile.ZipFile(stream, "w") as archive:

        def column(name: str, dtype: str, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> None:
            # A fixed date, so that two runs give the same bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                _write_array(entry, np.dtype(dtype), shape, pieces)

        names = (np.repeat(np.array(block.paths, f"<U{width}"), block.counts) for block in rows.blocks())
        column("path", f"<U{width}", (counts,), names)
        if rows.timestamps:
            times = (block.timestamps for block in rows.blocks() if block.timestamps is not None)
            column("timestamp", "<f4", (counts,), times)
        column("embedding", "<f4", (counts, rows.size), (block.embeddings for block in rows.blocks()))


def _write_parquet(rows: Rows, stream: IO[bytes]) -> None:
    """Row groups of ``BLOCK_ROWS`` rows; embeddings are lists of a fixed size."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [("path", pa.string()), ("timestamp", pa.float32()), ("embedding", pa.list_(pa.float32(), rows.size))]
    schema = pa.schema([field for field in fields if rows.timestamps or field[0] != "timestamp"])
    with pq.ParquetWriter(stream, schema, use_dictionary=["path"]) as writer:
        for block in rows.blocks():
            values = pa.array(block.embeddings.reshape(-1))
            columns = {
                "path": pa.array(np.repeat(np.array(block.paths, object), block.counts), pa.string()),
                "timestamp": None if block.timestamps is None else pa.array(np.ascontiguousarray(block.timestamps)),
                "embedding": pa.FixedSizeListArray.from_arrays(values, type=schema.field("embedding").type),
            }
            writer.write_table(pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema), BLOCK_ROWS)


def _write_npy(rows: Rows, stream: IO[bytes], names: IO[bytes]) -> None:
    """The embeddings, and their names in a second file."""
    counts = sum(count for _, count in rows.clips())
    _write_array(stream, np.dtype("<f4"), (counts, rows.size), (block.embeddings for block in rows.blocks()))
    _write_csv(rows, names, embeddings=False)


def _write_csv(rows: Rows, stream: IO[bytes], embeddings: bool = True) -> None:
    """Numbers with nine digits, which are exact for float32."""
    columns = ["path", *["timestamp"] * rows.timestamps]
    columns += [f"embedding_{number}" for number in range(rows.size)] if embeddings else []
    stream.write((",".join(columns) + "\n").encode())
    line = ",%.9g" * (len(columns) - 1) + "\n"
    for block in rows.blocks():
        values = block.embeddings if embeddings else block.embeddings[:, :0]
        if block.timestamps is not None:
            values = np.concatenate([block.timestamps[:, None], values], axis=1)
        names = (name for path, count in zip(block.paths, block.counts, strict=True) for name in [_field(path)] * count)
        for name, row in zip(names, values, strict=True):
            stream.write((name + line % tuple(row.tolist())).encode())


def _field(text: str) -> str:
    """Quote a field for CSV."""
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in ',"\r\n') else text


def _write_array(stream: IO[bytes], dtype: np.dtype, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    for piece in pieces:
        stream.write(np.ascontiguousarray(piece, dtype).tobytes())


def write_failures(path: Path, failures: Iterable[tuple[str, str]]) -> None:
    """Write the table of failures and their reasons."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        stream.write("path,reason\n")
        stream.writelines(f"{_field(name)},{_field(reason)}\n" for name, reason in failures)
