"""Where audio comes from: folders and manifests, WebDataset and Parquet shards here or on a server.

Only shards need more than files do: the packages of the extra ``shards`` are imported where they
are used.
"""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from ..audio import find_audio, read_audio
from ..errors import HearMwmaeError, needs_extra, reason
from .shards import connection_options, is_damage, parquet_entries, tar_entries

SHARD_SUFFIXES = (".tar", ".parquet")
#: What file systems call the time or the hash by which the versions of a file differ.
VERSION_KEYS = ("mtime", "ETag", "etag", "blob_id", "Last-Modified", "LastModified")
#: Errors of the name of a file or of its rights, and not of a disk.
OF_THE_NAME = (FileNotFoundError, NotADirectoryError, PermissionError)


@dataclass(frozen=True)
class Item:
    """One audio file, or one shard with many."""

    name: str  #: as the caller named it
    url: str  #: absolute path, or URL
    size: int  #: bytes; 0 if unknown
    version: str  #: time in nanoseconds of a local file; time or ETag elsewhere, if there is one
    about: dict  #: labels of its clips: the other columns of a manifest

    @property
    def is_shard(self) -> bool:
        return self.url.lower().endswith(SHARD_SUFFIXES)

    @property
    def exists(self) -> bool:
        """Whether it was found; a manifest may name a file that is not there."""
        return bool(self.version or self.size)

    @cached_property
    def identity(self) -> str:
        """All of it: with another name, size, time or label it is another input."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Recording:
    """A file, or a member of a shard: decoded, not decoded yet, or with the reason why not."""

    url: str  #: of the file or the shard
    about: dict
    member: str = ""  #: its name in the shard
    content: bytes | None = None  #: its bytes in the shard, until it is decoded
    problem: str = ""  #: why there is no audio
    waveform: Tensor | None = None  #: (samples,) float32

    @property
    def name(self) -> str:
        """Name for messages."""
        return f"{self.url} {self.member}".strip()


@dataclass
class Inputs:
    """The result of `find_inputs`."""

    items: list[Item] = field(default_factory=list)
    #: Missing sources and files, and sources that cannot be listed, each with the reason.
    failures: list[tuple[str, str]] = field(default_factory=list)

    def check(self) -> None:
        """HearMwmaeError for the first failure."""
        for name, why in self.failures:
            raise HearMwmaeError(why if why.startswith(name) else f"{name}: {why}")


def find_inputs(sources: Sequence[str], kind: str = "") -> Inputs:
    """The files and shards of ``sources``, in a fixed order; one that is listed twice, by the
    same name and with the same labels, is there once.

    A source is a folder, an audio file or a manifest (.csv) on a local disk, or shards (.tar,
    .parquet): a path or URL of any file system that fsspec knows (https, s3, gs, hf, ...), with *
    where it can list, and {000..123}. Missing and unreadable sources of the local disk do not stop
    the others. HearMwmaeError where a server does not have what is asked for, or fails.

    Args:
        kind: the label "kind" of clips whose source gives none; no such label if empty.
    """
    found = Inputs()
    labels = {"kind": kind} if kind else {}
    for source in sources:
        try:
            if source.lower().endswith(SHARD_SUFFIXES):
                found.items += _shards(source, labels)
            elif "://" in source:
                only = ", ".join(SHARD_SUFFIXES)
                raise HearMwmaeError(f"{source}: from servers, only shards are read ({only})")
            elif source.lower().endswith(".csv"):
                found.items += _manifest(Path(source), labels)
            else:
                failures: list[tuple[Path, str]] = []
                for file in find_audio([source], failures):
                    found.items.append(_local(file, labels | {"path": str(file)}))
                found.failures += [(str(path), why) for path, why in failures]
        except HearMwmaeError as error:
            cause = error.__cause__
            fails = isinstance(cause, OSError) and not isinstance(cause, OF_THE_NAME)
            if "://" in source or fails:
                raise  # what a server or a disk has is not known: nothing may count as gone
            found.failures.append((source, str(error)))
    found.items = list({item.identity: item for item in found.items}.values())
    return found


def read_item(item: Item, sample_rate: int) -> Iterator[Recording]:
    """The recordings in a file or shard, one after the other, decoded.

    A damaged one is yielded with its problem, and the rest follows. HearMwmaeError when the server
    or the disk of a shard fails: the data may be good.
    """
    return (decode(entry, sample_rate) for entry in entries(item))


def entries(item: Item) -> Iterator[Recording]:
    """`read_item` without the decoding."""
    if not item.is_shard:
        yield Recording(item.url, item.about)
        return
    read = tar_entries if item.url.lower().endswith(".tar") else parquet_entries
    try:
        for member, content, labels in read(item.url):
            about = {"path": member} | item.about | labels | {"shard": item.url}
            problem = "" if content else "holds no audio"
            yield Recording(item.url, about, member, content, problem)
    except Exception as error:  # every file system has its own
        if not is_damage(error):
            raise HearMwmaeError(f"{item.url} cannot be read: {reason(error)}") from error
        known = isinstance(error, HearMwmaeError)
        problem = str(error) if known else f"damaged, what follows is lost: {reason(error)}"
        yield Recording(item.url, item.about, problem=problem)


def decode(recording: Recording, sample_rate: int) -> Recording:
    """The recording with its audio."""
    if recording.problem:
        return recording
    source = recording.url if recording.content is None else recording.content
    try:
        waveform = read_audio(source, sample_rate, recording.name)
        return replace(recording, content=None, waveform=waveform)
    except HearMwmaeError as error:
        problem = str(error).removeprefix(f"{recording.name}: ")
        return replace(recording, content=None, problem=problem)


def _local(file: Path, about: dict) -> Item:
    # Links are not followed: the Hub's cache has a shard's ending in the name of the link alone.
    url = os.path.abspath(file)
    if not os.path.isfile(file):  # a problem when it is read
        return Item(str(file), url, 0, "", about)
    found = file.stat()
    return Item(str(file), url, found.st_size, str(found.st_mtime_ns), about)


def _shards(source: str, about: dict) -> list[Item]:
    with needs_extra("shards", f"reading {source}"):
        import fsspec
        from braceexpand import braceexpand

    items, pattern = [], source
    try:
        for pattern in braceexpand(source):
            filesystem, path = fsspec.core.url_to_fs(pattern, **connection_options(pattern))
            paths = sorted(filesystem.glob(path)) if "*" in pattern else [path]
            if not paths:
                raise FileNotFoundError("no such shard")
            for found in paths:
                about_file = filesystem.info(found)
                if "file" in filesystem.protocol:
                    items.append(_local(Path(found), about))
                    continue
                url, size = filesystem.unstrip_protocol(found), about_file.get("size") or 0
                versions = [str(about_file[key]) for key in VERSION_KEYS if key in about_file]
                items.append(Item(url, url, size, "".join(versions[:1]), about))
    except Exception as error:  # every file system has its own
        said = reason(error.__cause__ or error)  # that of the web is always FileNotFoundError
        raise HearMwmaeError(f"{pattern} cannot be listed: {said}") from error
    return items


def _manifest(path: Path, labels: dict) -> list[Item]:
    """Rows of a CSV: path (relative to the CSV), and labels of the clip."""
    try:
        # A file name may hold bytes that are not UTF-8.
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            reader = csv.DictReader(stream)
            rows, columns = list(reader), reader.fieldnames or []
    except (OSError, csv.Error) as error:
        raise HearMwmaeError(f"{path} cannot be read as a CSV: {reason(error)}") from error
    if "path" not in columns:
        raise HearMwmaeError(f"{path} has no column path; its first line names {columns}")
    if not rows:
        raise HearMwmaeError(f"{path} lists no audio")
    items = []
    for number, row in enumerate(rows, 2):
        if not row["path"] or "\0" in row["path"]:
            raise HearMwmaeError(f"{path}: row {number} names no path")
        given = {name: value for name, value in row.items() if name and value}
        items.append(_local(path.parent / row["path"], labels | given))
    return items
