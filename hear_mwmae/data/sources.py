"""Where audio comes from: folders and manifests, WebDataset and Parquet shards here or on a server.

Only shards need more than the embedding of files does: fsspec, aiohttp, pyarrow, tenacity and
webdataset are imported where they are used.
"""

from __future__ import annotations

import csv
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import torch

from ..audio import Found, read_audio, search_audio
from ..errors import HearMwmaeError
from ..extras import needs
from ..files import why_unreadable
from .shards import Damaged, Unreachable, connection_options, read_entries, reason_of

SHARD_SUFFIXES = (".tar", ".parquet")


@dataclass(frozen=True)
class Item:
    """One audio file, or one shard with many."""

    name: str  #: as the caller named it
    url: str  #: absolute path, or URL
    size: int  #: bytes, as far as they are known
    modified: int  #: nanoseconds, of local files; 0 elsewhere
    about: dict  #: labels of its clips; "kind" is always among them

    @property
    def is_shard(self) -> bool:
        return self.url.lower().endswith(SHARD_SUFFIXES)


@dataclass(frozen=True)
class Recording:
    """Audio of one clip: a waveform, or the reason why there is none."""

    name: str
    about: dict
    waveform: torch.Tensor | None  #: (samples,) float32
    problem: str = ""
    member: str = ""  #: its name in the shard, if it comes from one


@dataclass
class Inputs:
    """The result of :func:`find_inputs`."""

    items: list[Item] = field(default_factory=list)
    #: Missing sources and files, and sources that cannot be listed, each with the reason.
    failures: list[tuple[str, str]] = field(default_factory=list)
    passed_over: str = ""  #: text about files in folders that look like recordings but have no readable format

    def check(self) -> None:
        """HearMwmaeError for the first failure."""
        for name, reason in self.failures:
            raise HearMwmaeError(reason if name in reason else f"{name}: {reason}")


def find_inputs(sources: Sequence[str], kind: str = "audio") -> Inputs:
    """The files and shards of ``sources``, in a fixed order; ``kind`` labels clips of sources
    without labels.

    A source is a folder, an audio file or a manifest (.csv) on a local disk, or shards (.tar,
    .parquet): a path or URL of any file system that fsspec knows (https, s3, gs, hf, ...), with *
    where it can list, and {000..123}. Missing and unreadable sources do not stop the others. Raises
    Unreachable where a server fails.
    """
    found, beside = Inputs(), Found()
    for source in sources:
        try:
            if source.lower().endswith(SHARD_SUFFIXES):
                found.items += _shards(source, kind)
            elif "://" in source:
                raise HearMwmaeError(f"{source}: from servers, only shards are read ({', '.join(SHARD_SUFFIXES)})")
            elif source.lower().endswith(".csv"):
                found.items += _manifest(Path(source), kind)
            else:
                inside = search_audio([source])
                found.items += [_local(file, {"path": str(file), "kind": kind}) for file in inside.files]
                found.failures += [(str(path), reason) for path, reason in inside.failures]
                beside.passed_over += inside.passed_over
        except Unreachable:
            raise  # a later run would find more
        except HearMwmaeError as error:
            found.failures.append((source, str(error)))
    found.passed_over = beside.passed_over_line()
    return found


def read_item(item: Item, sample_rate: int, skip: int = 0) -> Iterator[Recording]:
    """The recordings in a file or shard, one after the other.

    A damaged one is yielded with its problem, and the rest follows.

    Reads from a failing server are repeated. Raises Unreachable when the server keeps failing: the
    data may be good.

    Args:
        skip: number of recordings at the beginning to skip without decoding.
    """
    if not item.is_shard:
        if not skip:
            yield _decode_file(item, sample_rate)
        return
    read = 0
    try:
        for name, content, labels in read_entries(item.url):
            read += 1
            if read <= skip:
                continue
            # Shard and member together identify the recording.
            about = item.about | labels | {"shard": item.url}
            yield _decode_bytes(name, content, about, sample_rate) if content else _nothing(item, name, "holds no audio")
    except Damaged as error:
        if read >= skip:  # otherwise it belongs to the skipped ones
            yield _nothing(item, "", f"damaged, what follows is lost: {error}")


def _local(file: Path, about: dict) -> Item:
    found = file.stat() if os.path.isfile(file) else None  # a missing file is a problem when it is read
    # Links are not followed: the Hub's cache has a shard's ending in the name of the link alone.
    return Item(str(file), os.path.abspath(file), found.st_size if found else 0, found.st_mtime_ns if found else 0, about)


def _shards(source: str, kind: str) -> list[Item]:
    try:
        import fsspec
        import pyarrow  # noqa: F401
        import webdataset  # noqa: F401
        from braceexpand import braceexpand
    except ModuleNotFoundError as error:
        raise needs(f"reading {source}", str(error.name), "shards") from error

    try:
        patterns = list(braceexpand(source))
    except ValueError as error:
        raise HearMwmaeError(f"{source}: {error}") from error
    items = []
    for pattern in patterns:
        try:
            filesystem, path = fsspec.core.url_to_fs(pattern, **connection_options(pattern))
            paths = sorted(filesystem.glob(path)) if "*" in pattern else [path]
            for found in paths:
                size = filesystem.info(found).get("size") or 0
                if "file" in filesystem.protocol:
                    items.append(_local(Path(found), {"kind": kind}))
                else:
                    url = filesystem.unstrip_protocol(found)
                    items.append(Item(url, url, size, 0, {"kind": kind}))
        except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError, ImportError) as error:
            reason = "" if isinstance(error, FileNotFoundError) else f" ({error})"
            raise HearMwmaeError(f"no such shard: {pattern}{reason}") from error
        except Exception as error:  # every file system has its own
            raise Unreachable(f"{pattern} cannot be listed: {reason_of(error)}") from error
        if not paths:
            raise HearMwmaeError(f"no such shard: {pattern}")
    return items


def _manifest(path: Path, kind: str) -> list[Item]:
    """Rows of a CSV: path (relative to the CSV), and labels of the clip; the label kind is ``kind``
    where a row has none.
    """
    try:
        # A file name may hold bytes that are no UTF-8.
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            reader = csv.DictReader(stream)
            rows, columns = list(reader), reader.fieldnames or []
    except OSError as error:
        raise HearMwmaeError(f"{path}: {why_unreadable(path) or error.strerror}") from error
    except csv.Error as error:
        raise HearMwmaeError(f"{path} is no CSV: {error}") from error
    if "path" not in columns:
        raise HearMwmaeError(f"{path} has no column path; its first line names {columns}")
    if not rows:
        raise HearMwmaeError(f"{path} lists no audio")
    if short := [number for number, row in enumerate(rows, 2) if not row["path"]]:
        raise HearMwmaeError(f"{path}: row {short[0]} names no path")
    if odd := [number for number, row in enumerate(rows, 2) if "\0" in row["path"]]:
        raise HearMwmaeError(f"{path}: row {odd[0]} has a NUL in its path")
    return [_local(path.parent / row["path"], {"kind": kind} | {k: v for k, v in row.items() if k and v}) for row in rows]


#: Errors of opening a file that are about its name or its rights, and not about the disk.
OF_THE_NAME = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)


def _nothing(item: Item, name: str, problem: str) -> Recording:
    return Recording(f"{item.url} {name}".strip(), item.about, None, problem, name)


def _decode_file(item: Item, sample_rate: int) -> Recording:
    try:
        # Otherwise an error of the disk would count as damage. A pipe must not block.
        os.close(os.open(item.url, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)))
    except OSError as error:
        if error.errno not in OF_THE_NAME:
            raise
        return _nothing(item, "", why_unreadable(item.url) or str(error.strerror))
    return _decode(item.url, item.url, item.about, sample_rate)


def _decode_bytes(name: str, content: bytes, about: dict, sample_rate: int) -> Recording:
    file = BytesIO(content)
    file.name = f"{about['shard']} {name}"
    return _decode(file.name, file, {"path": name} | about, sample_rate, name)


def _decode(name: str, source: str | BinaryIO, about: dict, sample_rate: int, member: str = "") -> Recording:
    try:
        waveform = read_audio(source, sample_rate)
    except HearMwmaeError as error:
        return Recording(name, about, None, str(error).removeprefix(f"{name}: "), member)
    if not waveform.isfinite().all():
        return Recording(name, about, None, "holds samples that are not finite", member)
    return Recording(name, about, waveform, member=member)
