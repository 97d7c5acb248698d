"""Collect freely licensed audio for pre-training from the packages of a Debian archive.

Debian has many hours of speech, music, single notes and sound effects in packages with reviewed
licences. This command downloads the packages of ``debian_packages.csv`` (without installing them),
decodes every audio file in them and writes 16 kHz mono FLAC files with a manifest::

    python -m corpora.debian_audio DEST [--package NAME ...] [--jobs 2]

Files in the destination::

    manifest.csv       path, seconds, package, version, kind and licence of every file
    audio/<package>/   the audio
    records/           the outcome for each package; a package with a record is not converted again
    debs/              the downloaded packages, which may be deleted

It needs ``apt-get`` and ``dpkg`` with a fresh package index (``apt-get update``), but not root.
"""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import click
import numpy as np
import soundfile

from hear_mwmae.cli.options import Command, jobs_option
from hear_mwmae.data.packing import begin_worker
from hear_mwmae.files import write_text

from .manifest import MIN_SECONDS, print_hours, resample, to_pcm, write_flac, write_manifest

PACKAGE_LIST = Path(__file__).with_name("debian_packages.csv")
MIN_PEAK = 1e-4
#: Kind of the packages that are kept from pretraining: a development task is made of them.
DEVELOPMENT = "development"

AUDIO_SUFFIXES = {
    *(".aif", ".aiff", ".au", ".flac", ".g722", ".gsm", ".m4a", ".mp3"),
    *(".oga", ".ogg", ".opus", ".spx", ".voc", ".wav", ".wv"),
}
# A raw stream has no header to be recognised by, so FFmpeg needs its format.
RAW_FORMATS = {".g722": "g722", ".gsm": "gsm"}
TAR_SUFFIXES = {".bz2", ".gz", ".h2drumkit", ".tar", ".tgz", ".xz"}

# Containers of games and toolkits that hold their audio uncompressed among other data.
CARVED_SUFFIXES = {".bin", ".cat", ".rcc"}

# Words in the path that tell the speech and the music in a package of effects: games have folders
# named so, Tux Paint ends the names of spoken descriptions in "_desc", and qABCs has "words" and
# "alpha" (letters).
KIND_WORDS = {
    "speech": re.compile(r"(^|[^a-z])(voice|voices|speech|speak|dialogs?|words|alpha|desc)([^a-z]|$)", re.IGNORECASE),
    "music": re.compile(r"(^|[^a-z])(music|musics|musik|soundtrack)([^a-z]|$)", re.IGNORECASE),
}


@dataclass(frozen=True)
class Clip:
    """A decoded file: its length and the hash of its samples, or the reason why it was dropped."""

    seconds: float = 0.0
    sha256: str = ""
    dropped: str = ""


def read_package_list(path: Path = PACKAGE_LIST) -> dict[str, dict[str, str]]:
    """Return the rows of the package list by package name."""
    with path.open(newline="", encoding="utf-8") as file:
        return {row["package"]: row for row in csv.DictReader(file)}


def decode(path: Path) -> tuple[np.ndarray, int]:
    """Return the mono float32 samples of an audio file and its sample rate."""
    raw_format = RAW_FORMATS.get(path.suffix.lower())
    if raw_format is None:
        try:
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
            return samples.mean(axis=1), rate
        except soundfile.LibsndfileError:
            pass  # a codec libsndfile does not know; FFmpeg may
    to_planar_float = av.AudioResampler(format="fltp")
    with av.open(str(path), format=raw_format) as container:
        stream = container.streams.audio[0]
        frames = [f.to_ndarray() for frame in container.decode(stream) for f in to_planar_float.resample(frame)]
        return np.concatenate([frame.mean(axis=0) for frame in frames]), stream.rate


def convert(source: Path, target: Path) -> Clip:
    """Write ``source`` as 16-bit mono FLAC to ``target``, unless it is unreadable, too short or
    silent.
    """
    try:
        samples, rate = decode(source)
        if len(samples) < MIN_SECONDS * rate:
            return Clip(dropped="short")
        samples = resample(samples, rate)
        if not np.isfinite(samples).all():
            return Clip(dropped="unreadable")
        if np.abs(samples).max() < MIN_PEAK:
            return Clip(dropped="silent")
    except Exception:  # decoders raise all sorts of errors on broken files
        return Clip(dropped="unreadable")
    return Clip(seconds=write_flac(target, samples), sha256=hashlib.sha256(to_pcm(samples).tobytes()).hexdigest())


def download(package: str, folder: Path) -> Path | None:
    """Return the ``.deb`` of a package, downloading it if need be, or None if apt cannot provide
    it.
    """
    if found := sorted(folder.glob(f"{package}_*.deb")):
        return found[-1]
    # apt writes in place, so an interrupted download must not look like a complete one.
    partial = folder / f"partial-{package}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        subprocess.run(["apt-get", "download", "-qq", package], cwd=partial, check=True, capture_output=True)
        (deb,) = partial.glob("*.deb")
        return deb.rename(folder / deb.name)
    except subprocess.CalledProcessError:
        return None
    finally:
        shutil.rmtree(partial)


def unpack_archives(root: Path) -> None:
    """Put the audio of all archives below ``root`` into a folder beside each archive."""
    for path in [p for p in root.rglob("*") if p.is_file() and not p.is_symlink() and not is_audio(p)]:
        folder = path.with_name(path.name + ".d")
        try:
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    archive.extractall(folder, [name for name in archive.namelist() if is_audio(name)])
            elif path.suffix.lower() in TAR_SUFFIXES and tarfile.is_tarfile(path):
                with tarfile.open(path) as archive:
                    members = [m for m in archive.getmembers() if m.isfile() and is_audio(m.name)]
                    archive.extractall(folder, members, filter="data")
            elif path.suffix.lower() in CARVED_SUFFIXES:
                carve(path, folder)
        except (OSError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, NotImplementedError) as error:
            click.echo(f"  cannot unpack {path.relative_to(root)}: {error}", err=True)


def carve(path: Path, folder: Path) -> None:
    """Cut the WAV files and Ogg streams that are stored uncompressed in a container into separate
    files.
    """
    content = path.read_bytes()
    pieces = []
    for match in re.finditer(rb"RIFF(....)WAVE", content, re.DOTALL):
        pieces.append((match.start(), match.start() + 8 + int.from_bytes(match[1], "little"), "wav"))
    start = None
    for match in re.finditer(rb"OggS\0([\0-\7]).{20}(.)", content, re.DOTALL):
        begins, ends = match[1][0] & 2, match[1][0] & 4  # flags of the first and the last page of a stream
        if begins:
            start = match.start()
        if ends and start is not None:
            segments = content[match.end() : match.end() + match[2][0]]
            pieces.append((start, match.end() + len(segments) + sum(segments), "ogg"))
            start = None
    folder.mkdir()
    for begin, end, suffix in pieces:
        (folder / f"{begin:010d}.{suffix}").write_bytes(content[begin:end])


def is_audio(name: str | Path) -> bool:
    """Tell whether a file name has one of the audio suffixes."""
    return Path(name).suffix.lower() in AUDIO_SUFFIXES


def convert_package(deb: Path, dest: Path, seen: set[str], pool: Executor) -> dict:
    """Convert all audio of a package and return its record; ``seen`` gains the hashes of the new
    files.
    """
    package = deb.name.split("_")[0]
    version = subprocess.check_output(["dpkg-deb", "-f", deb, "Version"], text=True).strip()
    extracted, audio = dest / "extracted" / package, dest / "audio" / package
    for folder in (extracted, audio):  # leftovers of an interrupted run
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    subprocess.run(["dpkg", "-x", deb, extracted], check=True)
    unpack_archives(extracted)

    sources = [p for p in sorted(extracted.rglob("*")) if is_audio(p) and p.is_file() and not p.is_symlink()]
    names = ["__".join(source.relative_to(extracted).parts) for source in sources]
    partials = [audio / f".{name}.partial" for name in names]
    record = {"version": version, "files": {}, "hashes": [], "unreadable": []}
    record |= dict.fromkeys(("short", "silent", "duplicate"), 0)
    clips = pool.map(convert, sources, partials, chunksize=4)
    for name, partial, clip in zip(names, partials, clips, strict=True):
        if clip.dropped == "unreadable":
            record["unreadable"].append(name)
        elif clip.dropped:
            record[clip.dropped] += 1
        elif clip.sha256 in seen:
            record["duplicate"] += 1
        else:
            seen.add(clip.sha256)
            record["hashes"].append(clip.sha256)
            record["files"][f"{name}.flac"] = clip.seconds
            partial.replace(audio / f"{name}.flac")
            continue
        partial.unlink(missing_ok=True)
    shutil.rmtree(extracted)
    return record


def kind_of(file_name: str, package_kind: str) -> str:
    """Return the kind of a file: the kind of its package, but in a package of effects its path may
    change it.
    """
    if package_kind == "effects":
        for kind, words in KIND_WORDS.items():
            if words.search(file_name):
                return kind
    return package_kind


def manifest_rows(records: dict[str, dict], packages: dict[str, dict[str, str]]) -> Iterable[tuple]:
    """Yield the rows of the manifest."""
    for package in sorted(records.keys() & packages.keys()):
        record, listed = records[package], packages[package]
        for name, seconds in record["files"].items():
            kind = kind_of(name, listed["kind"])
            yield f"audio/{package}/{name}", seconds, package, record["version"], kind, listed["licence"]


def echo_record(package: str, record: dict) -> None:
    """Print what was found in a package."""
    hours = sum(record["files"].values()) / 3600
    dropped = ", ".join(f"{record[reason]} {reason}" for reason in ("short", "silent", "duplicate"))
    click.echo(f"{package}: {len(record['files'])} files, {hours:.2f} hours (dropped: {dropped})")
    for name in record["unreadable"]:
        click.echo(f"  unreadable: {name}")


@click.command(cls=Command, help="Collect the audio of Debian packages in the folder DEST as 16 kHz mono FLAC.")
@click.argument("dest", type=click.Path(path_type=Path, file_okay=False))
@click.option("--package", "only", multiple=True, help="Convert only this package of the list (repeatable).")
@jobs_option("Number of decoding processes.")
def main(dest: Path, only: tuple[str, ...], jobs: int) -> None:
    """Run the command line."""
    packages = {name: row for name, row in read_package_list().items() if row["kind"] != DEVELOPMENT}
    if unlisted := set(only) - packages.keys():
        raise click.UsageError(f"not in {PACKAGE_LIST.name}: {', '.join(sorted(unlisted))}")
    for folder in ("debs", "records"):
        (dest / folder).mkdir(parents=True, exist_ok=True)
    record_files = {name: dest / "records" / f"{name}.json" for name in packages}
    records = {name: json.loads(path.read_text()) for name, path in record_files.items() if path.exists()}
    seen = {digest for record in records.values() for digest in record["hashes"]}
    todo = [name for name in dict.fromkeys(only or packages) if name not in records]
    unavailable = []

    spawn = multiprocessing.get_context("spawn")  # forking is unsafe beside the download thread
    workers = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=begin_worker)
    with ThreadPoolExecutor(1) as downloads, workers as pool:
        debs = [downloads.submit(download, name, dest / "debs") for name in todo]
        try:
            for package, deb in zip(todo, debs, strict=True):
                if deb.result() is None:
                    unavailable.append(package)
                    continue
                record = records[package] = convert_package(deb.result(), dest, seen, pool)
                write_manifest(dest, manifest_rows(records, packages))
                write_text(record_files[package], json.dumps(record, indent=1))
                echo_record(package, record)
        except BaseException:
            downloads.shutdown(wait=False, cancel_futures=True)  # else all other packages come first
            raise

    write_manifest(dest, manifest_rows(records, packages))
    print_hours(manifest_rows(records, packages))
    if unavailable:
        sys.exit(f"apt cannot provide: {', '.join(unavailable)}")


if __name__ == "__main__":
    main()
