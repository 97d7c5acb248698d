"""Shared by all corpora: 16 kHz mono FLAC with a manifest.csv, rendered in batches by processes,
resumable.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import soundfile
import torch
from tqdm import tqdm

from hear_mwmae import audio
from hear_mwmae.cli.options import Command
from hear_mwmae.data.packing import begin_worker
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import write_text

MANIFEST, COLUMNS = "manifest.csv", ("path", "seconds", "package", "version", "kind", "licence")
SAMPLE_RATE = 16_000
MIN_SECONDS = 0.1


class Source(NamedTuple):
    """Source of a sound: the columns of the manifest that all sounds of a batch share."""

    package: str
    version: str
    kind: str
    licence: str


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """(samples,) float32 at ``rate`` -> float32 at ``SAMPLE_RATE``."""
    return audio.resample(torch.from_numpy(samples), rate, SAMPLE_RATE).numpy()


def to_pcm(samples: np.ndarray) -> np.ndarray:
    """(samples,) within [-1, 1] -> int16."""
    return np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)


def write_flac(path: Path, samples: np.ndarray) -> float:
    """Write (samples,) within [-1, 1] at ``SAMPLE_RATE`` as 16-bit FLAC; returns its seconds."""
    soundfile.write(path, to_pcm(samples), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return round(len(samples) / SAMPLE_RATE, 3)


def write_manifest(dest: Path, rows: Iterable[Sequence], name: str = MANIFEST) -> None:
    """Write ``name`` into ``dest``; a row has the values of ``COLUMNS``."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    write_text(dest / name, text.getvalue())


Sounds = Iterable[tuple[str, np.ndarray]]


def render_batches(
    dest: Path, batches: dict[str, tuple[Source, object]], render: Callable[[object], Sounds], settings: object, jobs: int
) -> None:
    """Render every batch, one FLAC per sound, then write the manifest and print its hours.

    Args:
        batches: name -> source of its sounds, and the argument of ``render``.
        render: yields names (of files below ``dest/audio``, without suffix, one for each sound of
            the corpus) and samples. Runs in ``jobs`` processes.
        settings: everything that determines the sounds, as JSON. A folder holds the sounds of one
            choice only.

    A batch with a record is done, so an interrupted run is resumable. A batch that fails stops the
    run with its error. Raises HearMwmaeError if ``dest`` holds a corpus with other settings.
    """
    records = dest / "records"
    records.mkdir(parents=True, exist_ok=True)
    marker, text = records / "settings.json", json.dumps(settings, indent=1) + "\n"
    if marker.is_file() and marker.read_text() != text:
        raise HearMwmaeError(f"{dest} holds a corpus with other settings ({marker}); give another folder, or remove it")
    write_text(marker, text)
    missing = [name for name in batches if not (records / f"{name}.csv").is_file()]
    # Spawned, not forked: a fork of a process in which torch has started its threads may hang.
    with ProcessPoolExecutor(jobs, get_context("spawn"), begin_worker) as pool:
        futures = [pool.submit(_render_batch, dest, name, *batches[name], render) for name in missing]
        try:
            for future in tqdm(as_completed(futures), total=len(futures), desc=dest.name, unit="batch"):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    rows = [row for name in batches for row in csv.reader(io.StringIO((records / f"{name}.csv").read_text()))]
    write_manifest(dest, rows)
    print_hours(rows)


def _render_batch(dest: Path, name: str, source: Source, argument: object, render: Callable[[object], Sounds]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for sound, samples in render(argument):
        path = dest / "audio" / f"{sound}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.writerow((path.relative_to(dest), write_flac(path, samples), *source))
    write_text(dest / "records" / f"{name}.csv", text.getvalue())


def read_manifest(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a manifest, by column."""
    with open(path, newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def print_hours(rows: Iterable[Sequence]) -> None:
    """Print files and hours per package and kind, and the totals per kind."""
    table: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _, seconds, package, _, kind, _ in rows:
        for key in ((package, kind), ("TOTAL", kind), ("TOTAL", "all")):
            table[key].append(float(seconds))
    click.echo(f"\n{'package':40} {'kind':16} {'files':>7} {'hours':>7}")
    for (package, kind), lengths in sorted(table.items(), key=lambda item: (item[0][0] == "TOTAL", item[0])):
        click.echo(f"{package:40} {kind:16} {len(lengths):7d} {sum(lengths) / 3600:7.2f}")


@click.command(cls=Command, help="Print files and hours by package and kind of the given MANIFESTS.")
@click.argument("manifests", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(manifests: tuple[Path, ...]) -> None:
    """Run the command line."""
    print_hours([row[column] for column in COLUMNS] for path in manifests for row in read_manifest(path))


if __name__ == "__main__":
    main()
