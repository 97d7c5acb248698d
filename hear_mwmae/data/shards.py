"""Shards of audio (.tar, .parquet), here and on servers: their entries, one after the other.

The packages that this needs are imported where they are used, because files need none of them.
"""

import json
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import PurePosixPath

from ..audio import AUDIO_SUFFIXES, is_hidden
from ..errors import HearMwmaeError

#: Rows of a Parquet file in memory at a time.
PARQUET_ROWS = 16
#: Seconds until a server has to answer, and between its data.
SILENT_SECONDS = 30


def connection_options(url: str) -> dict:
    """Options of fsspec for a server: no limit on the time that a whole shard takes."""
    if not url.startswith(("http://", "https://")):
        return {}
    import aiohttp

    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS
    )
    return {"client_kwargs": {"timeout": timeout}}


def is_damage(error: Exception) -> bool:
    """Whether an error in reading a shard is about its content, and not about its disk or server.

    pyarrow raises OSError for both, and for content without a number.
    """
    if isinstance(error, (PermissionError, IsADirectoryError)):
        return True  # of this shard alone
    if isinstance(error, OSError):
        return type(error) is OSError and error.errno is None
    return isinstance(error, (tarfile.TarError, ValueError))


def tar_entries(url: str) -> Iterator[tuple[str, bytes, dict]]:
    """(name, content, labels) of a WebDataset shard: neighbours of one name up to its first dot are
    one entry, .json among them its labels.

    Names of clips may contain more dots (seconds, mostly): the text after the last one is the type.
    """
    import fsspec

    with (
        fsspec.open(url, "rb", **connection_options(url)) as stream,
        tarfile.open(fileobj=stream, mode="r|*") as archive,
    ):
        for _, group in groupby(_files(archive), lambda file: _key(file[0])):
            entry = list(group)
            contents = dict(entry)
            audio = [file for file in entry if _suffix(file[0]) in AUDIO_SUFFIXES]
            for name, content in audio:
                labels = _labels(contents.get(f"{name.rpartition('.')[0]}.json"))
                yield name, content, labels
            if not audio:
                yield ", ".join(contents), b"", {}


def _files(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """As in folders, what macOS adds (._clip.wav) is no audio."""
    for member in archive:
        name = member.name
        content = archive.extractfile(member) if member.isfile() else None
        hidden = any(map(is_hidden, PurePosixPath(name).parts))
        if content and _suffix(name) and not hidden:
            yield name, content.read()


def _key(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    return path.parent / path.name.partition(".")[0]


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _labels(content: bytes | None) -> dict:
    try:
        labels = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(labels, dict):
        return {}
    return {name: value for name, value in labels.items() if value is not None}


def parquet_entries(url: str) -> Iterator[tuple[str, bytes, dict]]:
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


def _fits_json(value: object) -> bool:
    """Whether a label can be kept: it is not null, and holds no bytes or time at any depth."""
    try:
        return json.dumps(value) != "null"
    except (TypeError, ValueError):
        return False
