"""A pack, here or on a server: its index in memory, its clips read one by one from where they lie in the shards."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable
from typing import TypeVar

import fsspec
import numpy as np
import pyarrow as pa
import soundfile
from pyarrow.csv import ConvertOptions, read_csv

from ..errors import HearMwmaeError
from .packing import ABOUT, FORMAT, INDEX, SAMPLE_RATE, to_pcm
from .sources import ATTEMPTS, connection_options, pause

T = TypeVar("T")


class BadRecord(Exception):
    """A clip that is not what the index says: damaged, or cut short."""


class Missing(HearMwmaeError):
    """A pack lacks one of its files."""


class Pack:
    """The clips of a pack: ``clips``, a structured array with a row per clip, and :meth:`read`.

    A clip's ``shard`` and ``kind`` are places in ``shards`` and ``kinds``.

    Args:
        url: the folder that `hear-mwmae pack` made: a path, or a URL of any file system that fsspec knows (https, s3, hf, ...).

    Raises HearMwmaeError when there is no pack, or a shard is missing or of another size than it was.
    """

    def __init__(self, url: str) -> None:
        self.url, self._process = str(url), 0
        self.about = self._about()
        self.clips, self.shards, self.kinds = self._index()
        self._check_shards()

    @property
    def identity(self) -> str:
        """Changes with any sample of the pack: the SHA-256 of its index covers every clip's checksum, kind, size and place."""
        return self.about["files"][INDEX]["sha256"]

    def _connect(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """The file system and the folder in it. A connection does not outlive a fork: every worker process makes its own."""
        if self._process != os.getpid():
            try:
                filesystem, root = fsspec.core.url_to_fs(self.url, **connection_options(self.url))
            except (ValueError, ImportError) as error:
                raise HearMwmaeError(f"{self.url} cannot be opened: {error}") from error
            self._connection, self._process = (filesystem, root.rstrip("/")), os.getpid()
        return self._connection

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_connection": None, "_process": 0}

    def read(self, number: int) -> np.ndarray:
        """The samples of clip ``number``, (samples,) int16. Raises BadRecord; HearMwmaeError when its shard is gone."""
        try:
            return self._read(self.clips[number])
        except BadRecord:
            return self._read(self.clips[number])  # once more: it may have been damaged on its way here

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
            raise BadRecord(str(error)) from error
        pcm = to_pcm(audio)
        if pcm.shape != (clip["samples"],) or rate != SAMPLE_RATE:
            raise BadRecord(f"{pcm.shape} samples at {rate} Hz, packed were {clip['samples']} at {SAMPLE_RATE}")
        return pcm

    def _fetch(self, name: str, begin: int | None = None, end: int | None = None) -> bytes:
        filesystem, root = self._connect()
        path = f"{root}/{name}"
        # Those that read by way of an open file (the Hub's is one) would fetch megabytes ahead.
        unbuffered = {} if filesystem.async_impl else {"cache_type": "none"}
        try:
            return _patiently(lambda: filesystem.cat_file(path, begin, end, **unbuffered), f"{self.url}/{name}")
        except FileNotFoundError as error:
            raise Missing(f"{self.url} lacks {name}") from error

    def _about(self) -> dict:
        self._connect()
        try:
            content = self._fetch(ABOUT)
        except Missing as error:
            raise HearMwmaeError(
                f"{self.url} is not a finished pack of audio (no {ABOUT}): see `hear-mwmae pack --help`"
            ) from error
        try:
            about = json.loads(content)
            if about["format"] == FORMAT and all({"size", "sha256"} <= file.keys() for file in about["files"].values()):
                return about
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise HearMwmaeError(f"{self.url}/{ABOUT} is damaged, or not of format {FORMAT}: pack the audio again")

    def _index(self) -> tuple[np.ndarray, list[str], list[str]]:
        content = self._fetch(INDEX)
        if hashlib.sha256(content).hexdigest() != self.identity:
            raise HearMwmaeError(f"{self.url}/{INDEX} is not what was packed")
        text = dict.fromkeys(("shard", "kind"), pa.dictionary(pa.int32(), pa.string()))
        fields = [("shard", np.int32), *((name, np.int64) for name in ("offset", "size", "crc32", "samples")), ("kind", np.int32)]
        wanted = ConvertOptions(column_types=text, include_columns=[name for name, _ in fields])
        table = read_csv(io.BytesIO(content), convert_options=wanted).combine_chunks()
        clips = np.empty(len(table), fields)
        names = {}
        for field, _ in fields:
            column = table[field].combine_chunks()
            if field in text:
                names[field], column = column.dictionary.to_pylist(), column.indices
            clips[field] = column.to_numpy()
        return clips, names["shard"], names["kind"]

    def _check_shards(self) -> None:
        """Only where that costs nothing; a server is asked when its turn comes."""
        filesystem, root = self._connect()
        if "file" not in np.atleast_1d(filesystem.protocol):
            return
        for name in self.shards:
            path, size = f"{root}/{name}", self.about["files"].get(name, {}).get("size")
            if not filesystem.exists(path) or filesystem.size(path) != size:
                raise HearMwmaeError(f"{self.url} lacks {name}, or it is not the {size} bytes that were packed")


def _patiently(call: Callable[[], T], what: str) -> T:
    """Ask again when a server or the way to it fails; what is not there is not asked for twice."""
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except FileNotFoundError:
            raise
        except Exception as error:  # every file system has its own
            if attempt == ATTEMPTS - 1:
                raise HearMwmaeError(f"{what} cannot be read after {ATTEMPTS} attempts: {error!r}") from error
            pause(attempt)
    raise AssertionError
