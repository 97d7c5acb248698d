"""Recorded speech from Parquet files of Opus clips.

    python -m research.corpora.recorded_speech DEST FILES.parquet...

A row holds ``audio`` (a struct of ``bytes``, an Ogg Opus file at 16 kHz, and ``path``), ``kind``,
``package``, ``licence`` and ``speaker``. Clips are written as they are, with a manifest as of the
other corpora; README.md lists the repositories that such files were made from.
`hear-mwmae pack` also reads the Parquet files themselves.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import click
import pandas as pd
import pyarrow.parquet as pq
import soundfile
from tqdm import tqdm

from hear_mwmae.cli.options import Command
from hear_mwmae.errors import HearMwmaeError

from .manifest import MANIFEST, MIN_SECONDS, hours, write_manifest

LABELS = ("kind", "package", "licence")


def read_rows(path: Path) -> Iterator[dict]:
    """The rows of a Parquet file, a few at a time; each must say what it is and its licence."""
    for batch in pq.ParquetFile(path).iter_batches(256):
        for row in batch.to_pylist():
            if missing := [name for name in LABELS if not row.get(name)]:
                raise HearMwmaeError(f"{path}: {row['audio']['path']} has no {missing[0]}")
            yield row


def write_clip(dest: Path, row: dict) -> dict | None:
    """Write one clip and return its row of the manifest; None if it is shorter than 0.1 s."""
    seconds = soundfile.info(io.BytesIO(row["audio"]["bytes"])).duration
    if seconds < MIN_SECONDS:
        return None
    name = row["audio"]["path"].removeprefix(f"{row['package']}/").replace("/", "__")
    path = dest / "audio" / row["package"] / f"{name}.opus"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(row["audio"]["bytes"])
    return {
        "path": str(path.relative_to(dest)),
        "seconds": round(seconds, 3),
        "package": row["package"],
        "version": "",
        "kind": row["kind"],
        "licence": row["licence"],
        "speaker": row.get("speaker") or "",
    }


@click.command(cls=Command, help=__doc__)
@click.argument("dest", type=click.Path(path_type=Path, file_okay=False))
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def main(dest: Path, files: tuple[Path, ...]) -> None:
    """Run the command line."""
    rows = (row for path in files for row in read_rows(path))
    written = [write_clip(dest, row) for row in tqdm(rows, desc=dest.name, unit="clip")]
    manifest = pd.DataFrame([row for row in written if row])
    write_manifest(dest / MANIFEST, manifest)
    click.echo(hours(manifest))


if __name__ == "__main__":
    main()
