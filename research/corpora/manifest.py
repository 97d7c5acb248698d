"""What all corpora share: 16 kHz mono FLAC files, and a table that says where each comes from.

python -m research.corpora.manifest data/*/manifest.csv      # prints files and hours
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import joblib
import numpy as np
import pandas as pd
import soundfile
import torch
from tqdm import tqdm

from hear_mwmae import audio
from hear_mwmae.cli.options import Command
from hear_mwmae.files import write_text
from hear_mwmae.pcm import to_pcm

MANIFEST = "manifest.csv"
COLUMNS = ["path", "seconds", "package", "version", "kind", "licence"]
SAMPLE_RATE = 16_000
MIN_SECONDS = 0.1


class Source(NamedTuple):
    """Where a sound comes from: columns of the manifest."""

    package: str
    version: str
    kind: str
    licence: str


class Sound(NamedTuple):
    """A sound of a corpus."""

    name: str  #: of its file below DEST/audio, without suffix
    samples: np.ndarray  #: (samples,) at 16 kHz, within [-1, 1]
    source: Source


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """(samples,) float32 at ``rate`` -> float32 at ``SAMPLE_RATE``."""
    return audio.resample(torch.from_numpy(samples), rate, SAMPLE_RATE).numpy()


def write_corpus(
    dest: Path, batches: Sequence[Any], render: Callable[[Any], Iterable[Sound]], jobs: int
) -> None:
    """Render every batch in one of ``jobs`` processes, a FLAC per sound, and write the manifest.

    A sound whose samples are those of an earlier one is left out.
    """
    work = joblib.Parallel(n_jobs=jobs, return_as="generator")
    written = work(joblib.delayed(_write_batch)(dest, batch, render) for batch in batches)
    rows: dict[str, list] = {}
    for batch in tqdm(written, total=len(batches), desc=dest.name, unit="batch"):
        for digest, row in batch:
            if rows.setdefault(digest, row) is not row:
                (dest / row[0]).unlink()
    manifest = pd.DataFrame(rows.values(), columns=COLUMNS)
    write_manifest(dest / MANIFEST, manifest)
    click.echo(hours(manifest))


def _write_batch(
    dest: Path, batch: Any, render: Callable[[Any], Iterable[Sound]]
) -> list[tuple[str, list]]:
    rows = []
    for sound in render(batch):
        path = dest / "audio" / f"{sound.name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, to_pcm(sound.samples), SAMPLE_RATE)
        digest = hashlib.sha256(sound.samples.tobytes()).hexdigest()
        seconds = round(len(sound.samples) / SAMPLE_RATE, 3)
        rows.append((digest, [str(path.relative_to(dest)), seconds, *sound.source]))
    return rows


def write_manifest(path: Path, rows: pd.DataFrame) -> None:
    """Write rows with at least ``COLUMNS``."""
    write_text(path, rows.to_csv(index=False))


def read_manifest(path: Path) -> pd.DataFrame:
    """The rows of a manifest; seconds are numbers, the others text."""
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    return rows.astype({"seconds": float})


def hours(manifest: pd.DataFrame) -> str:
    """Files and hours by package and kind, and by kind, as text."""
    totals = manifest.assign(package="TOTAL")
    everything = totals.assign(kind="all")
    rows = pd.concat([manifest, totals, everything])
    seconds = rows.groupby(["package", "kind"], sort=False)["seconds"]
    table = pd.DataFrame({"files": seconds.count(), "hours": (seconds.sum() / 3600).round(2)})
    return table.to_string()


@click.command(cls=Command)
@click.argument("manifests", nargs=-1, required=True, type=click.Path(path_type=Path))
def main(manifests: tuple[Path, ...]) -> None:
    """Print files and hours by package and kind of MANIFESTS."""
    click.echo(hours(pd.concat([read_manifest(path) for path in manifests])))


if __name__ == "__main__":
    main()
