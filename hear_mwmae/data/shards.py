"""Shards of audio (.tar, .parquet), here and on servers: their entries, read with patience.

The packages that this needs are imported where they are used, because files need none of them.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import BinaryIO

from ..audio import AUDIO_SUFFIXES, is_hidden
from ..errors import HearMwmaeError

#: Rows of a Parquet file in memory at a time.
PARQUET_ROWS = 16
#: Seconds until a server has to answer, and between its data.
CONNECT_SECONDS, SILENT_SECONDS = 10, 30
#: Attempts at a server, and seconds before the second one; the pause doubles every time.
ATTEMPTS, PATIENCE = 4, 1.0


class Unreachable(HearMwmaeError):
    """A server or a disk fails."""


class Damaged(Exception):
    """A shard has another format than its name says, from some point on."""


def connection_options(url: str) -> dict:
    """Options of fsspec for a server: timeouts."""
    if not url.startswith(("http://", "https://")):
        return {}
    import aiohttp

    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS
    )
    return {"client_kwargs": {"timeout": timeout}}


def read_entries(url: str) -> Iterator[tuple[str, bytes, dict]]:
    """(name, content, labels) of a shard. Servers that fail are asked again, for what follows."""
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

    def worthwhile(error: BaseException) -> bool:
        return isinstance(error, Exception) and "://" in url and not _is_damage(error)

    read = _tar_entries if url.lower().endswith(".tar") else _parquet_entries
    attempts = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=PATIENCE),
        retry=retry_if_exception(worthwhile),
        reraise=True,
    )
    done = 0
    try:
        for attempt in attempts:
            with attempt:
                for entry in islice(read(url), done, None):
                    done += 1
                    yield entry
    except Exception as error:
        closed = "://" not in url and isinstance(error, (PermissionError, IsADirectoryError))
        if closed or _is_damage(error):
            raise Damaged(reason_of(error)) from error
        raise Unreachable(f"{url} cannot be read: {reason_of(error)}") from error


def _tar_entries(url: str) -> Iterator[tuple[str, bytes, dict]]:
    """(name, content, labels) of a WebDataset shard: members of one key are one entry, .json among
    them its labels.

    WebDataset ends a key at the first dot. Names of clips may contain more dots (seconds, mostly),
    so only the text after the last dot counts as a type. WebDataset treats a repeated member name
    as damage: such members are not read as audio.
    """
    import fsspec
    from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

    names: set[tuple[str, str]] = set()
    repeated: list[str] = []

    def members(stream: BinaryIO) -> Iterator[dict]:
        for member in tar_file_expander([{"url": url, "stream": stream}]):
            path = member.get("fname", "")  # none at the end of a shard
            if any(is_hidden(name) for name in PurePosixPath(path).parts):
                continue  # as in folders: what macOS adds, ._clip.wav, is no audio
            key, end = base_plus_ext(path)
            name = key, (end or "").lower()
            if key is not None and name in names:
                repeated.append(f"{member['fname']} (again)")
            else:
                names.add(name)
                yield member

    with fsspec.open(url, "rb", **connection_options(url)) as stream:
        for sample in group_by_keys(members(stream)):
            ends = [end for end in sample if not end.startswith("__")]
            audio = [end for end in ends if f".{end.rpartition('.')[2]}" in AUDIO_SUFFIXES]
            for end in audio:
                stem = end.rpartition(".")[0]
                labels = _labels(sample.get(f"{stem}.json" if stem else "json"))
                yield f"{sample['__key__']}.{end}", sample[end], labels
            if not audio:
                yield f"{sample['__key__']} ({', '.join(ends)})", b"", {}
    yield from ((name, b"", {}) for name in repeated)


def _parquet_entries(url: str) -> Iterator[tuple[str, bytes, dict]]:
    """(name, content, labels) of a Parquet file as the Hub's `datasets` writes it: audio is a
    struct of bytes and path.
    """
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    with fsspec.open(url, "rb", **connection_options(url)) as stream:
        file = pq.ParquetFile(stream)
        structs = [field for field in file.schema_arrow if pa.types.is_struct(field.type)]
        audio = [field.name for field in structs if field.type.get_field_index("bytes") >= 0]
        if not audio:
            names = ", ".join(file.schema_arrow.names)
            raise HearMwmaeError(f"no column of audio (a struct with bytes), but {names}")
        for number, batch in enumerate(file.iter_batches(PARQUET_ROWS)):
            for place, row in enumerate(batch.to_pylist()):
                entry = row.pop(audio[0]) or {}
                name = entry.get("path") or f"row {number * PARQUET_ROWS + place}"
                labels = {label: value for label, value in row.items() if _fits_json(value)}
                yield name, entry.get("bytes") or b"", labels


def _labels(content: bytes | None) -> dict:
    try:
        labels = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(labels, dict):
        return {}
    return {name: value for name, value in labels.items() if value is not None}


def _fits_json(value: object) -> bool:
    """Whether a label can be kept: it holds no null, bytes or time, at any depth."""
    try:
        return json.dumps(value) != "null"
    except (TypeError, ValueError):
        return False


def _is_damage(error: BaseException) -> bool:
    """Whether an error in reading a shard is about its content, and not about its disk or server.

    pyarrow raises OSError for both, and for content without a number.
    """
    if isinstance(error, OSError):
        return type(error) is OSError and error.errno is None
    return isinstance(error, (tarfile.TarError, ValueError))


def reason_of(error: Exception) -> str:
    """The error without the name of the file, which webdataset appends to its arguments."""
    return f"{type(error).__name__}: {error.args[0] if error.args else error}"
