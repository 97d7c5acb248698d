"""Freely licensed recordings from the packages of a Debian archive.

    python -m research.corpora.debian_audio DEST [--jobs 2]

Debian has many hours of speech, music, single notes and sound effects in packages with reviewed
licences. The packages of debian_packages.csv are downloaded to DEST/debs, but not installed. It
needs ``apt-get`` and ``dpkg`` with a fresh package index (``apt-get update``), but not root.
"""

import csv
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import av
import click
import numpy as np

from hear_mwmae.audio import read_audio
from hear_mwmae.cli.options import Command, jobs_option
from hear_mwmae.errors import HearMwmaeError

from .manifest import MIN_SECONDS, SAMPLE_RATE, Sound, Source, resample, write_corpus

MIN_PEAK = 1e-4
#: Kind of the packages that are kept from pretraining: a development task is made of them.
DEVELOPMENT = "development"

AUDIO_SUFFIXES = {
    *(".aif", ".aiff", ".flac", ".g722", ".gsm", ".mp3"),
    *(".oga", ".ogg", ".opus", ".wav", ".wv"),
}
# A raw stream has no header to be recognised by, so FFmpeg is told its format.
RAW_SUFFIXES = {".g722", ".gsm"}
# Containers of games and toolkits that hold their audio uncompressed among other data.
CARVED_SUFFIXES = {".bin", ".cat", ".rcc"}

# Words in the path that tell the speech and the music in a package of effects: games have folders
# named so, Tux Paint ends the names of spoken descriptions in "_desc", and qABCs has "words" and
# "alpha" (letters).
KIND_WORDS = {
    "speech": "voice|voices|speech|speak|dialogs?|words|alpha|desc",
    "music": "music|musics|musik|soundtrack",
}


def read_package_list() -> list[dict[str, str]]:
    """The rows of the package list."""
    with Path(__file__).with_name("debian_packages.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def decode(path: Path) -> np.ndarray:
    """(samples,) float32 at 16 kHz of an audio file; HearMwmaeError or av.FFmpegError if it is
    none.
    """
    suffix = path.suffix.lower()
    if suffix not in RAW_SUFFIXES:
        return read_audio(path, SAMPLE_RATE).numpy()
    mono = av.AudioResampler(format="flt", layout="mono")
    with av.open(str(path), format=suffix.removeprefix(".")) as container:
        stream = container.streams.audio[0]
        frames = [f for frame in container.decode(stream) for f in mono.resample(frame)]
        return resample(np.concatenate([f.to_ndarray()[0] for f in frames]), stream.rate)


def download(package: str, folder: Path) -> Path:
    """The ``.deb`` of a package, downloaded if need be; HearMwmaeError if apt cannot provide it."""
    if found := sorted(folder.glob(f"{package}_*.deb")):
        return found[-1]
    # apt writes in place, so an interrupted download must not look like a complete one.
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as partial_folder:
        command = ["apt-get", "download", "-qq", package]
        done = subprocess.run(command, cwd=partial_folder, capture_output=True)
        if done.returncode:
            raise HearMwmaeError(f"apt cannot provide {package}: run `apt-get update` first")
        (deb,) = Path(partial_folder).glob("*.deb")
        return deb.rename(folder / deb.name)


def extract(deb: Path, folder: Path) -> list[Path]:
    """Unpack a package, and the archives in it, below ``folder``; returns its audio files."""
    subprocess.run(["dpkg", "-x", deb, folder], check=True)
    for path in files_below(folder):
        if is_audio(path):
            continue
        try:
            unpack(path, path.with_name(path.name + ".d"))
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:
            click.echo(f"cannot unpack {path.relative_to(folder)}: {error}", err=True)
    return sorted(filter(is_audio, files_below(folder)))


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def unpack(path: Path, folder: Path) -> None:
    """Put the audio of a zip archive or a container into ``folder``; nothing happens to other
    files.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder, filter(is_audio, archive.namelist()))
    elif path.suffix.lower() in CARVED_SUFFIXES:
        folder.mkdir()
        content = path.read_bytes()
        for begin, end, ending in carve(content):
            (folder / f"{begin:010d}.{ending}").write_bytes(content[begin:end])


def carve(content: bytes) -> Iterator[tuple[int, int, str]]:
    """Begin, end and suffix of the WAV files and Ogg streams that a container stores
    uncompressed.
    """
    for match in re.finditer(rb"RIFF(....)WAVE", content, re.DOTALL):
        length = 8 + int.from_bytes(match[1], "little")
        yield match.start(), match.start() + length, "wav"
    start = None
    for match in re.finditer(rb"OggS\0([\0-\7]).{20}(.)", content, re.DOTALL):
        flags = match[1][0]
        if flags & 2:  # the first page of a stream
            start = match.start()
        if flags & 4 and start is not None:  # the last one
            segments = content[match.end() : match.end() + match[2][0]]
            yield start, match.end() + len(segments) + sum(segments), "ogg"
            start = None


def is_audio(name: str | Path) -> bool:
    """Whether a file name has one of the audio suffixes."""
    return Path(name).suffix.lower() in AUDIO_SUFFIXES


def kind_of(file_name: str, package_kind: str) -> str:
    """The kind of a file: that of its package, but in a package of effects its path may change
    it.
    """
    if package_kind == "effects":
        for kind, words in KIND_WORDS.items():
            if re.search(f"(^|[^a-z])({words})([^a-z]|$)", file_name, re.IGNORECASE):
                return kind
    return package_kind


def render_package(row: dict[str, str], debs: Path) -> Iterator[Sound]:
    """The sounds of a package; what is unreadable, silent or shorter than 0.1 s is left out."""
    package = row["package"]
    try:
        deb = download(package, debs)
    except HearMwmaeError as error:
        click.echo(str(error), err=True)
        return
    version = subprocess.check_output(["dpkg-deb", "-f", deb, "Version"], text=True).strip()
    with tempfile.TemporaryDirectory(dir=debs) as folder:
        for path in extract(deb, Path(folder)):
            name = "__".join(path.relative_to(folder).parts)
            try:
                samples = decode(path)
            except (HearMwmaeError, av.FFmpegError, ValueError) as error:
                click.echo(f"{package}: {name}: {error}", err=True)
                continue
            if len(samples) >= MIN_SECONDS * SAMPLE_RATE and np.abs(samples).max() >= MIN_PEAK:
                source = Source(package, version, kind_of(name, row["kind"]), row["licence"])
                yield Sound(f"{package}/{name}", samples, source)


@click.command(cls=Command, help=__doc__)
@click.argument("dest", type=click.Path(path_type=Path, file_okay=False))
@jobs_option()
def main(dest: Path, jobs: int) -> None:
    rows = [row for row in read_package_list() if row["kind"] != DEVELOPMENT]
    write_corpus(dest, rows, partial(render_package, debs=dest / "debs"), jobs)


if __name__ == "__main__":
    main()
