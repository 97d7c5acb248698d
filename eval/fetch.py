"""Downloads HEAR's tasks from their public record, checks, unpacks and resamples them.

A task appears in the tasks folder when it is complete. Until then it is in ``.fetch/`` of that
folder, where the same command goes on after an interruption:

    KEY.part, KEY        an archive during the download; complete, its MD5 checked
    FOLDER.part, FOLDER  its content during the unpacking; complete, 16000/ is filled from 48000/
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import requests
import soundfile
from tqdm import tqdm

from hear_mwmae.audio import read_audio
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import one_at_a_time, replacing
from hear_mwmae.tasks import METADATA, SAMPLE_RATE, read_task

from .check import problems_of

#: "HEAR: Holistic Evaluation of Audio Representations (tasks)", doi 10.5281/zenodo.5885750: all
#: tasks, at 48 kHz only.
RECORD = "https://zenodo.org/api/records/5885750"
SOURCE_RATE = 48000
#: Attempts without progress before the download of an archive fails.
ATTEMPTS = 4
#: Seconds before the second attempt; every further pause is longer by as much.
PAUSE = 2.0
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


def fetch_task(name: str, tasks_dir: Path, archives: list[Archive], jobs: int = 1) -> None:
    """Make the task folder ``tasks_dir/name``, complete at 16 kHz.

    Raises HearMwmaeError if the record has no such task, or if the download is damaged or
    incomplete.

    Args:
        jobs: files to resample at a time.
    """
    work = tasks_dir / WORK
    found = [archive for archive in archives if name in archive.key]
    if len(found) != 1:
        raise HearMwmaeError(f"the record has {len(found)} files for {name}, not one")
    (archive,) = found
    work.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(work / f"{name}.lock", f"another process is fetching {name}"):
        folder = work / name
        if not folder.is_dir():
            unpack(download(archive, work), folder)
        resample(folder, jobs)
        if problems := problems_of(folder):
            raise HearMwmaeError(f"{folder} is not complete: {'; '.join(problems)}")
        (work / archive.key).unlink(missing_ok=True)
        shutil.rmtree(folder / str(SOURCE_RATE), ignore_errors=True)
        folder.rename(tasks_dir / name)


def download(archive: Archive, folder: Path) -> Path:
    """The complete, checked archive in ``folder``. A partial download is resumed."""
    whole = folder / archive.key
    part = folder / f"{archive.key}.part"
    if whole.is_file():
        return whole
    part.touch()
    failures = 0
    with tqdm(total=archive.size, desc=archive.key, unit="B", unit_scale=True) as bar:
        while (had := part.stat().st_size) < archive.size:
            bar.n = had
            error = _append(archive, part, bar)
            if part.stat().st_size > had:
                failures = 0
                continue
            failures += 1
            if failures == ATTEMPTS:
                raise HearMwmaeError(
                    f"{archive.url} cannot be downloaded: {error or 'the file is too short'}; the "
                    "same command resumes the download"
                )
            time.sleep(PAUSE * failures)
    with open(part, "rb") as stream:
        md5 = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != archive.md5 or part.stat().st_size != archive.size:
        part.unlink()
        raise HearMwmaeError(
            f"{archive.key} arrived damaged (its MD5 is not {archive.md5}) and was removed"
        )
    part.rename(whole)
    return whole


def _append(archive: Archive, part: Path, bar: tqdm) -> requests.RequestException | None:
    """Download the missing bytes, until the connection breaks; returns the error that broke it."""
    had = part.stat().st_size
    headers = {"Range": f"bytes={had}-"} if had else {}
    try:
        with requests.get(archive.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            response.raise_for_status()
            # A server without ranges sends everything again.
            resumes = response.status_code == requests.codes.partial_content
            with open(part, "ab" if resumes else "wb") as stream:
                for block in response.iter_content(1 << 14):
                    stream.write(block)
                    bar.update(len(block))
    except requests.RequestException as error:
        return error
    return None


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the task folder of that name from anywhere in an archive: metadata and 48 kHz audio
    only.
    """
    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with tarfile.open(archive) as members:
            for member in tqdm(members, desc=f"unpack {folder.name}", unit="file"):
                parts = PurePosixPath(member.name).parts
                if folder.name not in parts or not member.isfile():
                    continue
                inside = parts[parts.index(folder.name) + 1 :]
                if len(inside) == 1 or inside[0] == str(SOURCE_RATE):
                    member.name = "/".join(inside)
                    members.extract(member, partial, filter="data")  # refuses to write elsewhere
    except tarfile.TarError as error:
        raise HearMwmaeError(f"{archive} cannot be unpacked: {error}") from error
    if not (partial / METADATA).is_file():
        raise HearMwmaeError(f"{archive} holds no task {folder.name}")
    partial.rename(folder)


def resample(folder: Path, jobs: int) -> None:
    """Make ``16000/`` from ``48000/``, file by file. Existing files are kept."""
    files = []
    for split in read_task(folder, audio=False).split_names:
        (folder / str(SAMPLE_RATE) / split).mkdir(parents=True, exist_ok=True)
        files += sorted((folder / str(SOURCE_RATE) / split).glob("*"))
    missing = [file for file in files if not _target(file).is_file()]
    with ThreadPoolExecutor(jobs) as pool:
        resampled = pool.map(_resample_file, missing)
        for _ in tqdm(resampled, desc=f"resample {folder.name}", total=len(missing), unit="file"):
            pass


def _resample_file(file: Path) -> None:
    with replacing(_target(file)) as temporary:
        audio = read_audio(file, SAMPLE_RATE).numpy().clip(-1, 1)
        subtype = soundfile.info(file).subtype
        soundfile.write(temporary, audio, SAMPLE_RATE, format="WAV", subtype=subtype)


def _target(file: Path) -> Path:
    """.../48000/SPLIT/NAME -> .../16000/SPLIT/NAME."""
    return file.parents[2] / str(SAMPLE_RATE) / file.parent.name / file.name
