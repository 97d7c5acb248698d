"""A pack, local or on a server: its format, its index in memory, and reads of single clips by their
offsets in the shards.

A pack is a folder:

    shard-000000.tar, ...   per clip KEY.flac (or .opus) and KEY.json: its labels
    index.csv               a row per clip: its shard, where its audio lies in it, samples, kind
    labels.jsonl            a line per clip, in the same order: kind, path, start, other labels
    skipped.csv             what could not be packed, and why
    manifest.csv            the manifests among its sources, joined
    pack.json               sources, settings and the SHA-256 of every file; written last

Labels are not in the index: every process of a run reads the whole index, and needs no labels.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator

import fsspec
import numpy as np
import pyarrow as pa
import soundfile
from pyarrow.csv import ConvertOptions, read_csv

from ..config import FrontendConfig
from ..errors import HearMwmaeError
from .shards import ATTEMPTS, connection_options, retrying

#: Version of the layout above, and those that can be read. Packs of format 1 have no labels.jsonl.
FORMAT, READABLE = 2, (1, 2)
INDEX, LABELS, SKIPPED, ABOUT, MANIFEST = "index.csv", "labels.jsonl", "skipped.csv", "pack.json", "manifest.csv"
#: Columns of the tables.
COLUMNS = {INDEX: ("shard", "offset", "size", "crc32", "samples", "kind", "key"), SKIPPED: ("source", "reason")}
SAMPLE_RATE = FrontendConfig().sample_rate
#: Recordings are cut into clips of this length, as in AudioSet. Normalisation is per clip.
CLIP_SECONDS = 10.0


class BadRecord(Exception):
    """A clip that differs from its row in the index: damaged, or truncated."""


class Missing(HearMwmaeError):
    """A pack lacks one of its files."""


class Pack:
    """The clips of a pack: ``clips``, a structured array with a row per clip, and :meth:`read`.

    A clip's ``shard`` and ``kind`` are places in ``shards`` and ``kinds``.

    Args:
        url: the folder that `hear-mwmae pack` made: a path, or a URL of any file system that fsspec
            knows (https, s3, hf, ...).

    Raises HearMwmaeError when there is no pack, or a shard is missing or of another size than it
    was.
    """

    def __init__(self, url: str | os.PathLike) -> None:
        self.url, self._process = str(url), 0
        self.about = self._about()
        self.clips, self.shards, self.kinds = self._index()
        self._check_shards()

    @property
    def identity(self) -> str:
        """SHA-256 of the index, which holds every clip's checksum, kind, size and offset: it
        changes with any sample.
        """
        return self.about["files"][INDEX]["sha256"]

    def labels(self) -> Iterator[dict]:
        """The labels of each clip, in the order of ``clips``.

        Raises HearMwmaeError for a pack of format 1.
        """
        if self.about["format"] == 1:
            raise HearMwmaeError(
                f"{self.url} is of format 1, without {LABELS}: pack the audio again (FLAC gives the same index again, by which a "
                "run knows its data)"
            )
        yield from map(json.loads, self._fetch_whole(LABELS).splitlines())

    def read(self, number: int) -> np.ndarray:
        """The samples of clip ``number``, (samples,) int16.

        Raises BadRecord; HearMwmaeError when its shard is gone.
        """
        try:
            return self._read(self.clips[number])
        except BadRecord:
            return self._read(self.clips[number])  # once more: the transfer may have damaged it

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_connection": None, "_process": 0}

    def _connect(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """The file system and the folder in it.

        A connection does not outlive a fork: every worker process makes its own.
        """
        if self._process != os.getpid():
            try:
                filesystem, root = fsspec.core.url_to_fs(self.url, **connection_options(self.url))
            except (ValueError, ImportError) as error:
                raise HearMwmaeError(f"{self.url} cannot be opened: {error}") from error
            self._connection, self._process = (filesystem, root.rstrip("/")), os.getpid()
        return self._connection

    def _read(self, clip: np.void) -> np.ndarray:
        begin, size = int(clip["offset"]), int(clip["size"])
        content = self._fetch(self.shards[clip["shard"]], begin, begin + size)
        if len(content) > size:
            raise HearMwmaeError(
                f"{self.url}: the server sent {len(content)} bytes where {size} were asked for (no range requests?)"
            )
        if zlib.crc32(content) != clip["crc32"]:
            raise BadRecord("its bytes are not those that were packed")
        try:
            # As float: Opus goes beyond full scale, where libsndfile's 16-bit samples wrap around.
            audio, rate = soundfile.read(io.BytesIO(content), dtype="float32")
        except soundfile.SoundFileError as error:
            raise BadRecord(str(error).splitlines()[0]) from error
        pcm = to_pcm(audio)
        if pcm.shape != (clip["samples"],) or rate != SAMPLE_RATE:
            raise BadRecord(f"{pcm.shape} samples at {rate} Hz, packed were {clip['samples']} at {SAMPLE_RATE}")
        return pcm

    def _fetch(self, name: str, begin: int | None = None, end: int | None = None) -> bytes:
        """Bytes of a file; a server that fails is asked again, but not for what is not there."""
        filesystem, root = self._connect()
        # File systems that read through an open file (the Hub's is one) would fetch megabytes
        # ahead.
        unbuffered = {} if filesystem.async_impl else {"cache_type": "none"}
        failed = retrying(lambda error: not isinstance(error, FileNotFoundError))
        try:
            return failed(filesystem.cat_file, f"{root}/{name}", begin, end, **unbuffered)
        except FileNotFoundError as error:
            raise Missing(f"{self.url} lacks {name}") from error
        except Exception as error:  # every file system has its own
            raise HearMwmaeError(f"{self.url}/{name} cannot be read after {ATTEMPTS} attempts: {error!r}") from error

    def _fetch_whole(self, name: str) -> bytes:
        content = self._fetch(name)
        if hashlib.sha256(content).hexdigest() != self.about["files"][name]["sha256"]:
            raise HearMwmaeError(f"{self.url}/{name} is not what was packed")
        return content

    def _about(self) -> dict:
        try:
            content = self._fetch(ABOUT)
        except Missing as error:
            raise HearMwmaeError(
                f"{self.url} is not a finished pack of audio (no {ABOUT}): see `hear-mwmae pack --help`"
            ) from error
        try:
            about = json.loads(content)
            if about["format"] in READABLE and all({"size", "sha256"} <= file.keys() for file in about["files"].values()):
                return about
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise HearMwmaeError(
            f"{self.url}/{ABOUT} is damaged, or not of format {' or '.join(map(str, READABLE))}: pack the audio again"
        )

    def _index(self) -> tuple[np.ndarray, list[str], list[str]]:
        text = dict.fromkeys(("shard", "kind"), pa.dictionary(pa.int32(), pa.string()))
        fields = [("shard", np.int32), *((name, np.int64) for name in ("offset", "size", "crc32", "samples")), ("kind", np.int32)]
        wanted = ConvertOptions(column_types=text, include_columns=[name for name, _ in fields])
        table = read_csv(io.BytesIO(self._fetch_whole(INDEX)), convert_options=wanted).combine_chunks()
        clips = np.empty(len(table), fields)
        names = {}
        for field, _ in fields:
            column = table[field].combine_chunks()
            if field in text:
                names[field], column = column.dictionary.to_pylist(), column.indices
            clips[field] = column.to_numpy()
        return clips, names["shard"], names["kind"]

    def _check_shards(self) -> None:
        """On a local disk only; a missing file on a server is found when it is read."""
        filesystem, root = self._connect()
        if "file" not in np.atleast_1d(filesystem.protocol):
            return
        for name in self.shards:
            path, size = f"{root}/{name}", self.about["files"].get(name, {}).get("size")
            if not filesystem.exists(path) or filesystem.size(path) != size:
                raise HearMwmaeError(f"{self.url} lacks {name}, or it is not the {size} bytes that were packed")


def to_pcm(audio: np.ndarray) -> np.ndarray:
    """Float samples -> int16, times 2^15, the inverse of reading 16-bit audio: 16-bit audio is
    unchanged.
    """
    return (audio * 32768).round().clip(-32768, 32767).astype(np.int16)
