"""Recorded speech from Parquet files of Opus clips.

    python -m research.corpora.recorded_speech DEST FILES.parquet... [--jobs 2]

A row holds ``audio`` (a struct of ``bytes``, an Ogg Opus file, and ``path``), ``kind``, ``package``
and ``licence``. README.md lists the repositories that such files were made from. `hear-mwmae pack`
also reads them directly; as a corpus they have a manifest, can be drawn from, and lose copies.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow.parquet as pq

from hear_mwmae.audio import read_audio
from hear_mwmae.cli.options import Command, jobs_option
from hear_mwmae.errors import HearMwmaeError

from .manifest import MIN_SECONDS, SAMPLE_RATE, Sound, Source, write_corpus


def render_file(path: Path) -> Iterator[Sound]:
    """The clips of one Parquet file; HearMwmaeError if one does not say its kind or licence."""
    for batch in pq.ParquetFile(path).iter_batches(256):
        for row in batch.to_pylist():
            name = row["audio"]["path"]
            source = Source(row["package"], "", row["kind"], row["licence"])
            if not (source.package and source.kind and source.licence):
                raise HearMwmaeError(f"{path}: {name} does not say package, kind and licence")
            samples = read_audio(io.BytesIO(row["audio"]["bytes"]), SAMPLE_RATE).numpy()
            if len(samples) >= MIN_SECONDS * SAMPLE_RATE:
                yield Sound(name, samples, source)


@click.command(cls=Command, help=__doc__)
@click.argument("dest", type=click.Path(path_type=Path, file_okay=False))
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@jobs_option()
def main(dest: Path, files: tuple[Path, ...], jobs: int) -> None:
    write_corpus(dest, files, render_file, jobs)


if __name__ == "__main__":
    main()
