"""What all corpora share: 16 kHz mono FLAC files, and a table that says where each comes from."""

import hashlib
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import joblib
import numpy as np
import pandas as pd
import soundfile
import torch

from hear_mwmae import audio
from hear_mwmae.audio import to_pcm
from hear_mwmae.files import write_text

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


def version_of(package: str) -> str:
    """Version of an installed Debian package."""
    return subprocess.check_output(["dpkg-query", "-W", "-f", "${Version}", package], text=True)


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
    rows: dict[str, list] = {}
    for batch in work(joblib.delayed(_write_batch)(dest, batch, render) for batch in batches):
        for digest, row in batch:
            if rows.setdefault(digest, row) is not row:
                (dest / row[0]).unlink()
    table = pd.DataFrame(rows.values(), columns=["path", "seconds", *Source._fields])
    write_text(dest / "manifest.csv", table.to_csv(index=False))
    click.echo(f"{len(table)} sounds, {table['seconds'].sum() / 3600:.2f} h -> {dest}")


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


def read_manifest(path: Path) -> pd.DataFrame:
    """The rows of a manifest; seconds are numbers, the others text."""
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    return rows.astype({"seconds": float})
