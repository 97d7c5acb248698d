"""Audio from anywhere -> a pack: WebDataset shards of clips of at most ten seconds at 16 kHz, with an index.

A pack is a folder:

    shard-000000.tar, ...   per clip KEY.flac (or .opus) and KEY.json: kind, path and what else was known of it, start in seconds
    index.csv               a row per clip: where its audio lies in which shard, its samples, its kind
    skipped.csv             what could not be packed, and why
    manifest.csv            the manifests it was made from, if there were any
    pack.json               what it was made from and how, and the SHA-256 of every file; written last

Shards are written under another name and moved into place. What an interrupted `pack` finished, the same command keeps.
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
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import soundfile
import torch
from tqdm import tqdm
from webdataset.writer import TarWriter

from ..config import FrontendConfig
from ..errors import HearMwmaeError
from ..files import UNFINISHED, one_at_a_time, printable, replacing, write_text
from ..hub import sha256_of
from .sources import Item, Recording, find_inputs, read_item

SAMPLE_RATE = FrontendConfig().sample_rate
#: Codec -> libsndfile's container and coding.
CODECS = {"flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}
#: Recordings are cut into clips of this length, that of AudioSet's. Normalisation is per clip.
CLIP_SECONDS = 10.0
#: What remains at the end of a cut recording is dropped when shorter than this.
MIN_REST_SECONDS = 1.0
#: Version of the layout above.
FORMAT = 1
INDEX, SKIPPED, ABOUT, MANIFEST, LOCK = "index.csv", "skipped.csv", "pack.json", "manifest.csv", ".lock"
INDEX_FIELDS = ("shard", "offset", "size", "crc32", "samples", "kind", "key")
SKIPPED_FIELDS = ("source", "reason")


@dataclass(frozen=True)
class Packed:
    """What is in a pack: counts, and hours of audio."""

    clips: int
    hours: float
    shards: int
    skipped: int


def pack(
    sources: Sequence[str], out: Path, codec: str = "flac", kind: str = "audio", shard_bytes: int = 256 << 20, jobs: int = 1
) -> Packed:
    """Pack what `sources.find_inputs` finds into the folder ``out``, with ``jobs`` processes.

    A shard holds ``shard_bytes`` of source files, or one source shard. Raises HearMwmaeError when nothing can be packed, and when
    ``out`` holds a pack of something else.
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
        _check_folder(out, unfinished, about["plan"])
        if not (out / ABOUT).is_file():
            write_text(unfinished, json.dumps(about))
            _pack_units(units, out, codec, jobs)
            _finish(out, about, sources, len(units))
        for leftover in (unfinished, *out.glob(".shard-*")):
            leftover.unlink(missing_ok=True)
    return Packed(**json.loads((out / ABOUT).read_text())["packed"])


def _plan(units: list[list[Item]], codec: str) -> str:
    """Hash of what is to be packed how: local files by path, size and time, others by URL and size."""
    plan = hashlib.sha256(json.dumps([FORMAT, codec, CLIP_SECONDS]).encode())
    for unit in units:
        plan.update(json.dumps([asdict(item) for item in unit]).encode())
    return plan.hexdigest()


def _check_folder(out: Path, unfinished: Path, plan: str) -> None:
    """HearMwmaeError when ``out`` holds anything but the pack of this plan, finished or not."""
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
    """Files in their order, as many as make a shard; a source shard by itself."""
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
    missing = [number for number in range(len(units)) if not _part(out, number, SKIPPED).is_file()]
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
    """One thread per process; and none outlives the command, however that ends: it would go on writing, or wait for ever."""
    torch.set_num_threads(1)
    sentinel = parent_process().sentinel
    threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()


def pack_shard(unit: list[Item], out: Path, number: int, codec: str) -> None:
    """Write shard ``number``, and then its parts of the index and of what was skipped."""
    name = f"shard-{number:06d}.tar"
    clips: dict[str, tuple[int, str]] = {}
    skipped = []
    with replacing(out / name) as temporary:
        with open(temporary, "wb") as stream, TarWriter(stream, encoder=False, mtime=0, user="", group="") as writer:
            recordings = (recording for item in unit for recording in read_item(item, SAMPLE_RATE))
            for position, recording in enumerate(recordings):
                if recording.problem:
                    skipped.append((recording.name, recording.problem))
                    continue
                for piece, (start, pcm) in enumerate(_clips(recording)):
                    if not np.ptp(pcm):
                        skipped.append((recording.name, f"silence from second {start / SAMPLE_RATE:g} on"))
                        continue
                    key = f"{number:06d}-{position:06d}-{piece:04d}"
                    about = recording.about | {"start": start / SAMPLE_RATE}
                    writer.write({"__key__": key, codec: _encode(pcm, codec), "json": json.dumps(about).encode()})
                    clips[f"{key}.{codec}"] = len(pcm), printable(str(recording.about["kind"]))
        rows = [(name, *place, *clips[member], member) for member, *place in _members(temporary) if member in clips]
    _write_rows(_part(out, number, INDEX), INDEX_FIELDS, rows)
    _write_rows(_part(out, number, SKIPPED), SKIPPED_FIELDS, skipped)  # the last: its presence says that the shard is whole


def _clips(recording: Recording) -> Iterator[tuple[int, np.ndarray]]:
    """(first sample, 16-bit samples) of every clip of a recording."""
    pcm = to_pcm(recording.waveform.numpy())
    size, rest = int(CLIP_SECONDS * SAMPLE_RATE), int(MIN_REST_SECONDS * SAMPLE_RATE)
    for start in range(0, len(pcm), size):
        if start == 0 or len(pcm) - start >= rest:
            yield start, pcm[start : start + size]


def to_pcm(audio: np.ndarray) -> np.ndarray:
    """Float samples -> int16, by 2^15, the inverse of how 16-bit audio is read: what was 16-bit stays as it was."""
    return (audio * 32768).round().clip(-32768, 32767).astype(np.int16)


def _encode(pcm: np.ndarray, codec: str) -> bytes:
    stream = io.BytesIO()
    container, coding = CODECS[codec]
    soundfile.write(stream, pcm, SAMPLE_RATE, format=container, subtype=coding)
    return stream.getvalue()


def _members(path: Path) -> Iterator[tuple[str, int, int, int]]:
    """(name, offset, size, CRC-32) of the files in a tar file, as they are found on the disk."""
    with tarfile.open(path, "r:") as archive, open(path, "rb") as stream:
        for member in archive:
            stream.seek(member.offset_data)
            yield member.name, member.offset_data, member.size, zlib.crc32(stream.read(member.size))


def _finish(out: Path, about: dict, sources: Sequence[str], shards: int) -> None:
    """Join the parts, and say that the pack is whole."""
    counted, kept = Counter(), [f"shard-{number:06d}.tar" for number in range(shards)]

    def rows(file: str) -> Iterator[list[str]]:
        for number in range(shards):
            for row in _rows(_part(out, number, file)):
                counted[file] += 1
                counted["samples"] += int(row.get("samples", 0))
                yield list(row.values())

    for file, fields in ((INDEX, INDEX_FIELDS), (SKIPPED, SKIPPED_FIELDS)):
        _write_rows(out / file, fields, rows(file))
    if not counted[INDEX]:
        reasons = "; ".join(" ".join(row.values()) for row in islice(_rows(out / SKIPPED), 3))
        for path in out.iterdir():
            if path.name != LOCK:
                path.unlink()
        raise HearMwmaeError(f"nothing could be packed: {reasons}")
    if manifests := [Path(source) for source in sources if source.endswith(".csv")]:
        _join_manifests(manifests, out / MANIFEST)
        kept.append(MANIFEST)
    packed = Packed(counted[INDEX], counted["samples"] / SAMPLE_RATE / 3600, shards, counted[SKIPPED])
    files = [out / name for name in (*kept, INDEX, SKIPPED)]
    about |= {"packed": asdict(packed)}
    about |= {"files": {path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)} for path in files}}
    write_text(out / ABOUT, json.dumps(about, indent=1) + "\n")


def _join_manifests(manifests: list[Path], target: Path) -> None:
    """One as it is; several in a row, with the columns of all."""
    if len(manifests) == 1:
        with replacing(target) as temporary:
            shutil.copyfile(manifests[0], temporary)
        return
    tables = [list(_rows(path)) for path in manifests]
    columns = list(dict.fromkeys(column for table in tables for row in table for column in row))
    _write_rows(target, columns, ([row.get(column, "") for column in columns] for table in tables for row in table))


def _part(out: Path, number: int, file: str) -> Path:
    return out / f".shard-{number:06d}.{file}"


def _write_rows(path: Path, fields: Sequence[str], rows: Iterable[Sequence]) -> None:
    # A file name may hold bytes that are no UTF-8: they are kept, so that the file is found by what is written.
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream)
        writer.writerow(fields)
        writer.writerows(rows)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    # A spreadsheet may have left its mark at the beginning.
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
        yield from csv.DictReader(stream)
