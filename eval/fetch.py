"""Downloads HEAR's tasks from their public record, checks, unpacks and resamples them.

A task appears in the tasks folder when it is complete. Until then it is in ``.fetch/`` of that
folder, with its archive, whose download the same command resumes.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import requests
import soundfile
from tqdm import tqdm

from hear_mwmae.audio import read_audio
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.tasks import SAMPLE_RATE

from .check import problems_of

#: "HEAR: Holistic Evaluation of Audio Representations (tasks)", doi 10.5281/zenodo.5885750: all
#: tasks, at 48 kHz only.
RECORD = "https://zenodo.org/api/records/5885750"
SOURCE_RATE = 48000
#: Seconds that a server may be silent.
TIMEOUT = 60
#: Folder of incomplete tasks, in the folder of tasks.
WORK = ".fetch"


@dataclass(frozen=True)
class Archive:
    """A file of the record."""

    key: str
    url: str
    size: int
    md5: str


def read_record(url: str = RECORD) -> list[Archive]:
    """The files of a Zenodo record. HearMwmaeError if the record cannot be read."""
    archives = []
    try:
        response = requests.get(url, timeout=TIMEOUT)
        response.raise_for_status()
        for file in response.json()["files"]:
            md5 = file["checksum"].removeprefix("md5:")
            archives.append(Archive(file["key"], file["links"]["self"], file["size"], md5))
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise HearMwmaeError(f"cannot read the list of files at {url}: {error!r}") from error
    return archives


def fetch_task(name: str, tasks_dir: Path, archives: list[Archive]) -> None:
    """Make the task folder ``tasks_dir/name``, complete at 16 kHz.

    Raises HearMwmaeError if the record has no such task, or if the download is damaged or
    incomplete.
    """
    found = [archive for archive in archives if name in archive.key]
    if len(found) != 1:
        raise HearMwmaeError(f"the record has {len(found)} files for {name}, not one")
    work = tasks_dir / WORK
    work.mkdir(parents=True, exist_ok=True)
    file = download(found[0], work)
    folder = work / name
    unpack(file, folder)
    if problems := problems_of(folder):
        raise HearMwmaeError(f"{folder} is not complete: {'; '.join(problems)}")
    folder.rename(tasks_dir / name)
    file.unlink()


def download(archive: Archive, folder: Path) -> Path:
    """The complete, checked archive in ``folder``. A partial download is resumed.

    HearMwmaeError if the connection breaks, or if the archive is not the one of the record.
    """
    file = folder / archive.key
    file.touch()
    had = file.stat().st_size
    if had < archive.size:
        try:
            _append(archive, file, had)
        except requests.RequestException as error:
            raise HearMwmaeError(
                f"{archive.url} cannot be downloaded: {error}; the same command resumes the "
                "download"
            ) from error
        if file.stat().st_size < archive.size:
            raise HearMwmaeError(
                f"{archive.url} ended early; the same command resumes the download"
            )
    with open(file, "rb") as stream:
        md5 = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != archive.md5:
        file.unlink()
        raise HearMwmaeError(
            f"{archive.key} arrived damaged (its MD5 is not {archive.md5}) and was removed"
        )
    return file


def _append(archive: Archive, file: Path, had: int) -> None:
    """Download what a file of ``had`` bytes lacks."""
    headers = {"Range": f"bytes={had}-"} if had else {}
    with requests.get(archive.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        response.raise_for_status()
        # A server without ranges sends everything again.
        resumes = response.status_code == requests.codes.partial_content
        with (
            open(file, "ab" if resumes else "wb") as stream,
            tqdm(desc=archive.key, total=archive.size, unit="B", unit_scale=True) as bar,
        ):
            bar.update(stream.tell())
            for block in response.iter_content(1 << 14):
                stream.write(block)
                bar.update(len(block))


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the task folder of that name from anywhere in an archive: its labels, and its audio,
    resampled from 48 to 16 kHz.
    """
    shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted command
    folder.mkdir()
    try:
        with tarfile.open(archive) as members:
            for member in tqdm(members, desc=f"unpack {folder.name}", unit="file"):
                parts = PurePosixPath(member.name).parts
                content = members.extractfile(member) if member.isfile() else None
                if content is None or folder.name not in parts:
                    continue
                match parts[parts.index(folder.name) + 1 :]:
                    case [name]:
                        (folder / name).write_bytes(content.read())
                    case [rate, split, name] if rate == str(SOURCE_RATE):
                        (folder / str(SAMPLE_RATE) / split).mkdir(parents=True, exist_ok=True)
                        resample(content.read(), folder / str(SAMPLE_RATE) / split / name)
    except tarfile.TarError as error:
        raise HearMwmaeError(f"{archive} cannot be unpacked: {error}") from error


def resample(content: bytes, target: Path) -> None:
    """Write an audio file at 16 kHz, of one channel and the same type of samples."""
    audio = read_audio(content, SAMPLE_RATE, name=target.name).numpy().clip(-1, 1)
    subtype = soundfile.info(io.BytesIO(content)).subtype
    soundfile.write(target, audio, SAMPLE_RATE, format="WAV", subtype=subtype)
