"""Downloads HEAR's tasks from their public record, checks, unpacks and resamples them.

Every step is resumable.

A task appears in the tasks folder when it is complete. Until then it is in ``.fetch/`` of that
folder:

    KEY.part           an archive during the download
    KEY                a complete archive, its MD5 checked
    FOLDER/            its content; 16000/ is filled from 48000/
    FOLDER/.unpacked   marks a completely unpacked archive
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path, PurePosixPath

import requests
import soundfile
import torch
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_incrementing
from tqdm import tqdm

from hear_mwmae.audio import read_audio
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import one_at_a_time, replacing
from hear_mwmae.probing.tasks import METADATA, SAMPLE_RATE, TaskFolder

from .tasks import BenchmarkTask, problems_of

#: "HEAR: Holistic Evaluation of Audio Representations (tasks)", doi 10.5281/zenodo.5885750: all
#: tasks, at 48 kHz only.
RECORD = "https://zenodo.org/api/records/5885750"
SOURCE_RATE = 48000
#: Attempts without progress before the download of an archive fails.
ATTEMPTS = 4
#: Seconds before the second attempt; every further pause is longer by as much.
PAUSE = 2.0
#: Folder of incomplete tasks, in the folder of tasks.
WORK = ".fetch"
#: Marks a folder with the complete content of an archive.
UNPACKED = ".unpacked"
#: Seconds that a server may be silent.
TIMEOUT = 60
#: Files that a process resamples at a time.
CHUNK = 64


@dataclass(frozen=True)
class Archive:
    """A file of the record."""

    key: str
    url: str
    size: int
    md5: str


def read_record(url: str = RECORD) -> list[Archive]:
    """The files of a Zenodo record. HearMwmaeError if the record cannot be read."""
    try:
        response = requests.get(url, timeout=TIMEOUT)
        response.raise_for_status()
        files = response.json()["files"]
        return [Archive(f["key"], f["links"]["self"], f["size"], f["checksum"].removeprefix("md5:")) for f in files]
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise HearMwmaeError(f"cannot read the list of files at {url}: {error!r}") from error


def is_fetched(task: BenchmarkTask, tasks_dir: Path) -> bool:
    """Whether ``tasks_dir/FOLDER`` is complete."""
    final = tasks_dir / task.folder
    return final.is_dir() and not (final / UNPACKED).is_file()


def fetch_task(task: BenchmarkTask, tasks_dir: Path, archives: list[Archive], jobs: int = 1, keep: bool = False) -> None:
    """Make ``tasks_dir/FOLDER`` complete at 16 kHz.

    Raises HearMwmaeError if the record has no such task, or if the download is damaged or
    incomplete.

    Args:
        jobs: processes for resampling.
        keep: leave the archive and the 48 kHz audio in place.
    """
    final, work = tasks_dir / task.folder, tasks_dir / WORK
    found = [archive for archive in archives if task.folder in archive.key]
    if len(found) != 1:
        raise HearMwmaeError(f"the record has {len(found)} files for {task.folder}, where one is expected")
    (archive,) = found
    work.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(work / f"{task.folder}.lock", f"another process is fetching {task.folder}"):
        if not final.is_dir():
            _complete(task, archive, work, final, jobs)
        if not keep:
            shutil.rmtree(final / str(SOURCE_RATE), ignore_errors=True)
            (work / archive.key).unlink(missing_ok=True)
        (final / UNPACKED).unlink(missing_ok=True)  # another process may have completed it


def _complete(task: BenchmarkTask, archive: Archive, work: Path, final: Path, jobs: int) -> None:
    folder = work / task.folder
    if not (folder / UNPACKED).is_file():
        unpack(download(archive, work), folder)
    resample(folder, jobs)
    if problems := problems_of(TaskFolder(folder)):
        raise HearMwmaeError(f"{folder} is not complete: {'; '.join(problems)}")
    folder.rename(final)  # with its mark: the archive and the 48 kHz audio are not removed yet


def download(archive: Archive, folder: Path) -> Path:
    """The complete, checked archive in ``folder``. A partial download is resumed."""
    whole, part = folder / archive.key, folder / f"{archive.key}.part"
    if whole.is_file():
        return whole
    retry = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_incrementing(PAUSE, PAUSE),
        retry=retry_if_exception_type(requests.RequestException),
        reraise=True,
    )
    with tqdm(total=archive.size, desc=archive.key, unit="B", unit_scale=True) as bar:
        try:
            while _size(part) < archive.size:
                retry(_append, archive, part, bar)
        except requests.RequestException as error:
            raise HearMwmaeError(f"{archive.url} cannot be downloaded: {error}; the same command resumes the download") from error
    digest = hashlib.md5(usedforsecurity=False)
    with open(part, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != archive.md5 or part.stat().st_size != archive.size:
        part.unlink()
        raise HearMwmaeError(f"{archive.key} arrived damaged (its MD5 is not {archive.md5}) and was removed; try again")
    part.rename(whole)
    return whole


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _append(archive: Archive, part: Path, bar: tqdm) -> None:
    """Download the missing bytes. requests.RequestException if nothing arrives; received bytes are
    kept.
    """
    had = bar.n = _size(part)
    headers = {"Range": f"bytes={had}-"} if had else {}
    try:
        with requests.get(archive.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            response.raise_for_status()
            # A server without ranges sends everything again.
            with open(part, "ab" if response.status_code == requests.codes.partial_content else "wb") as stream:
                for block in response.iter_content(1 << 14):
                    stream.write(block)
                    bar.update(len(block))
    except requests.RequestException:
        if _size(part) <= had:
            raise
    if _size(part) <= had:
        raise requests.ConnectionError("the file of the server is too short")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the task folder of that name from anywhere in an archive: metadata and 48 kHz audio
    only.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with tarfile.open(archive) as members:
            for member in tqdm(members, desc=f"unpack {folder.name}", unit="file"):
                parts = PurePosixPath(member.name).parts
                if folder.name not in parts or not member.isfile():
                    continue
                inside = parts[parts.index(folder.name) + 1 :]
                if len(inside) == 1 or inside[0] == str(SOURCE_RATE):
                    member.name = "/".join(inside)
                    members.extract(member, folder, filter="data")  # refuses to write elsewhere
    except tarfile.TarError as error:
        raise HearMwmaeError(f"{archive} cannot be unpacked: {error}") from error
    if not (folder / METADATA).is_file():
        raise HearMwmaeError(f"{archive} holds no task {folder.name}")
    (folder / UNPACKED).touch()


def resample(folder: Path, jobs: int) -> None:
    """Make ``16000/`` from ``48000/``, file by file. Existing files are kept."""
    files = []
    for split in TaskFolder(folder).splits:
        (folder / str(SAMPLE_RATE) / split).mkdir(parents=True, exist_ok=True)
        files += [path for path in sorted((folder / str(SOURCE_RATE) / split).iterdir()) if not _target(path).is_file()]
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    with tqdm(total=len(files), desc=f"resample {folder.name}", unit="file") as bar:
        if jobs == 1:
            for chunk in chunks:
                bar.update(resample_files(chunk))
            return
        with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            for done in pool.map(resample_files, chunks):
                bar.update(done)


def resample_files(files: list[Path]) -> int:
    """Write every file at 16 kHz to the folder of that rate; returns their number."""
    for file in files:
        with replacing(_target(file)) as temporary:
            audio = read_audio(file, SAMPLE_RATE).numpy().clip(-1, 1)
            soundfile.write(temporary, audio, SAMPLE_RATE, format="WAV", subtype=soundfile.info(file).subtype)
    return len(files)


def _target(file: Path) -> Path:
    """.../48000/SPLIT/NAME -> .../16000/SPLIT/NAME."""
    return file.parents[2] / str(SAMPLE_RATE) / file.parent.name / file.name
