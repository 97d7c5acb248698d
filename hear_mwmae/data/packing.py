"""Audio from anywhere -> a pack (pack.py): WebDataset shards of clips of at most ten seconds at 16
kHz, with an index.

Shards are written under another name and moved into place. What an interrupted `pack` finished, the
same command keeps.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import torch
from tqdm import tqdm
from webdataset.writer import TarWriter

from ..errors import HearMwmaeError
from ..files import UNFINISHED, one_at_a_time, printable, read_json, replacing, write_text
from ..hub import sha256_of
from .pack import ABOUT, CLIP_SECONDS, COLUMNS, FORMAT, INDEX, LABELS, MANIFEST, SAMPLE_RATE, SKIPPED, to_pcm
from .sources import Item, find_inputs, read_item

#: Codec -> libsndfile's container and coding.
CODECS = {"flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}
#: The rest at the end of a cut recording is dropped when shorter than this.
MIN_REST_SECONDS = 1.0
LOCK = ".lock"


@dataclass(frozen=True)
class Packed:
    """Counts of a pack, and its hours of audio."""

    clips: int
    hours: float
    shards: int
    skipped: int


def pack(
    sources: Sequence[str], out: Path, codec: str = "flac", kind: str = "audio", shard_bytes: int = 256 << 20, jobs: int = 1
) -> Packed:
    """Pack the inputs that `sources.find_inputs` finds into the folder ``out``, with ``jobs``
    processes.

    A shard holds ``shard_bytes`` of source files, or one source shard. Raises HearMwmaeError when
    nothing can be packed, and when ``out`` holds a pack of something else.
    """
    if re.match(r"\w{2,}:/", str(out)):  # as a path, a URL has one slash
        raise HearMwmaeError(f"a pack is made in a local folder, and copied from there; got {out}")
    found = find_inputs(sources, kind)
    found.check()
    if found.passed_over:
        tqdm.write(f"not read: {found.passed_over}", file=sys.stderr)
    units = _units(found.items, shard_bytes)
    about = {"format": FORMAT, "sources": list(sources), "codec": codec, "sample_rate": SAMPLE_RATE, "plan": _plan(units, codec)}
    out.mkdir(parents=True, exist_ok=True)
    unfinished = out / f".{ABOUT}"
    with one_at_a_time(out / LOCK, f"another process is packing into {out}"):
        _check_folder(out, unfinished, str(about["plan"]))
        if not (out / ABOUT).is_file():
            write_text(unfinished, json.dumps(about))
            _pack_units(units, out, codec, jobs)
            _finish(out, about, sources, len(units))
        for leftover in (unfinished, *out.glob(".shard-*")):
            leftover.unlink(missing_ok=True)
    return Packed(**json.loads((out / ABOUT).read_text())["packed"])


def _plan(units: list[list[Item]], codec: str) -> str:
    """Hash of inputs and settings: local files by path, size and time, others by URL and size."""
    plan = hashlib.sha256(json.dumps([FORMAT, codec, CLIP_SECONDS]).encode())
    for unit in units:
        plan.update(json.dumps([asdict(item) for item in unit]).encode())
    return plan.hexdigest()


def _check_folder(out: Path, unfinished: Path, plan: str) -> None:
    """HearMwmaeError when ``out`` holds anything but the pack of this plan, finished or
    unfinished.
    """
    for file in (out / ABOUT, unfinished):
        if file.is_file():
            try:
                same = json.loads(file.read_text())["plan"] == plan
            except (ValueError, KeyError, TypeError):
                same = False
            if not same:
                raise HearMwmaeError(f"{out} holds a pack of other sources or settings; give another folder, or remove it")
            return
    if foreign := sorted(path.name for path in out.iterdir() if path.name != LOCK and not path.name.endswith(UNFINISHED)):
        raise HearMwmaeError(f"{out} is not empty (it holds {foreign[0]}): a pack needs a folder of its own")


def _units(items: list[Item], shard_bytes: int) -> list[list[Item]]:
    """Files in their order, grouped by shard; a source shard is one group."""
    units: list[list[Item]] = []
    filled = shard_bytes
    for item in items:
        if item.is_shard or filled >= shard_bytes:
            units.append([])
            filled = 0
        units[-1].append(item)
        filled = shard_bytes if item.is_shard else filled + item.size
    return units


def _pack_units(units: list[list[Item]], out: Path, codec: str, jobs: int) -> None:
    missing = [number for number in range(len(units)) if not _part(out, number).is_file()]
    with tqdm(total=len(units), initial=len(units) - len(missing), desc="pack", unit="shard") as bar:
        if jobs == 1:
            for number in missing:
                pack_shard(units[number], out, number, codec)
                bar.update()
            return
        # Spawned, not forked: a fork of a process in which torch has started its threads may hang.
        with ProcessPoolExecutor(jobs, get_context("spawn"), begin_worker) as pool:
            futures = [pool.submit(pack_shard, units[number], out, number, codec) for number in missing]
            try:
                for future in as_completed(futures):
                    future.result()
                    bar.update()
            except BrokenProcessPool as error:
                raise HearMwmaeError("a process of the pack has ended (out of memory?); the same command goes on") from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def begin_worker() -> None:
    """One thread per process.

    No process outlives the command: it would keep writing, or wait for ever.
    """
    torch.set_num_threads(1)
    parent = parent_process()
    assert parent is not None  # this is a worker
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def pack_shard(unit: list[Item], out: Path, number: int, codec: str) -> None:
    """Write shard ``number``, and then its part of the other files, which marks the shard as
    complete.
    """
    name = _shard(number)
    index: list[tuple] = []
    labels: list[str] = []
    skipped: list[tuple] = []
    with replacing(out / name) as temporary, open(temporary, "wb") as file:
        stream = _Hashing(file)
        with TarWriter(stream, encoder=False, mtime=0, user="", group="") as writer:
            recordings = (recording for item in unit for recording in read_item(item, SAMPLE_RATE))
            for position, recording in enumerate(recordings):
                if recording.waveform is None:
                    skipped.append((recording.name, recording.problem))
                    continue
                kind = printable(str(recording.about["kind"]))
                for piece, (start, pcm) in enumerate(_clips(recording.waveform)):
                    if not np.ptp(pcm):
                        skipped.append((recording.name, f"silence from second {start / SAMPLE_RATE:g} on"))
                        continue
                    key = f"{number:06d}-{position:06d}-{piece:04d}"
                    labels.append(json.dumps(recording.about | {"start": start / SAMPLE_RATE}))
                    audio = _encode(pcm, codec)
                    writer.write({"__key__": key, codec: audio})
                    place = writer.tarstream.offset - -(-len(audio) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE  # in whole blocks
                    index.append((name, place, len(audio), zlib.crc32(audio), len(pcm), kind, f"{key}.{codec}"))
                    writer.write({"__key__": key, "json": labels[-1].encode()})
        written = {"size": file.tell(), "sha256": stream.sha256.hexdigest()}
    write_text(_part(out, number), json.dumps({"file": written, INDEX: index, LABELS: labels, SKIPPED: skipped}))


class _Hashing:
    """A file written from front to back, with the SHA-256 of its content."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return self.file.write(content)


def _clips(waveform: torch.Tensor) -> Iterator[tuple[int, np.ndarray]]:
    """(first sample, 16-bit samples) of every clip of a recording."""
    pcm = to_pcm(waveform.numpy())
    size, rest = int(CLIP_SECONDS * SAMPLE_RATE), int(MIN_REST_SECONDS * SAMPLE_RATE)
    for start in range(0, len(pcm), size):
        if start == 0 or len(pcm) - start >= rest:
            yield start, pcm[start : start + size]


def _encode(pcm: np.ndarray, codec: str) -> bytes:
    stream = io.BytesIO()
    container, coding = CODECS[codec]
    soundfile.write(stream, pcm, SAMPLE_RATE, format=container, subtype=coding)
    return stream.getvalue()


def _finish(out: Path, about: dict, sources: Sequence[str], shards: int) -> None:
    """Join the parts, and mark the pack as complete."""
    files, clips, samples, skipped = {}, 0, 0, 0
    for number in range(shards):
        part = read_json(_part(out, number))
        files[_shard(number)] = part["file"]
        clips, skipped = clips + len(part[INDEX]), skipped + len(part[SKIPPED])
        samples += sum(row[COLUMNS[INDEX].index("samples")] for row in part[INDEX])

    def rows(file: str) -> Iterator:
        for number in range(shards):
            yield from read_json(_part(out, number))[file]

    for table, columns in COLUMNS.items():
        _write_rows(out / table, columns, rows(table))
    if not clips:
        reasons = "; ".join(" ".join(row) for row in islice(rows(SKIPPED), 3))
        for path in out.iterdir():
            if path.name != LOCK:
                path.unlink()
        raise HearMwmaeError(f"nothing could be packed: {reasons}")
    with replacing(out / LABELS) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in rows(LABELS))
    others = [INDEX, LABELS, SKIPPED]
    if manifests := [Path(source) for source in sources if source.lower().endswith(".csv")]:
        _join_manifests(manifests, out / MANIFEST)
        others.append(MANIFEST)
    for path in (out / name for name in others):
        files[path.name] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    packed = Packed(clips, samples / SAMPLE_RATE / 3600, shards, skipped)
    write_text(out / ABOUT, json.dumps(about | {"packed": asdict(packed), "files": files}, indent=1) + "\n")


def _join_manifests(manifests: list[Path], target: Path) -> None:
    """One manifest unchanged; several joined, with the columns of all."""
    if len(manifests) == 1:
        with replacing(target) as temporary:
            shutil.copyfile(manifests[0], temporary)
        return
    tables = [list(_rows(path)) for path in manifests]
    columns = list(dict.fromkeys(column for table in tables for row in table for column in row))
    _write_rows(target, columns, ([row.get(column, "") for column in columns] for table in tables for row in table))


def _shard(number: int) -> str:
    return f"shard-{number:06d}.tar"


def _part(out: Path, number: int) -> Path:
    return out / f".shard-{number:06d}.json"


def _write_rows(path: Path, fields: Sequence[str], rows: Iterable[Sequence]) -> None:
    # A file name may hold bytes that are not UTF-8: they are kept, so that the written name finds
    # the file.
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream)
        writer.writerow(fields)
        writer.writerows(rows)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    # Spreadsheets write a byte order mark at the beginning.
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
        yield from csv.DictReader(stream)
