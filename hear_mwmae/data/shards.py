"""Shards of audio (.tar, .parquet), here and on servers: their entries, one after the other.

The packages that this needs are imported where they are used, because files need none of them.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
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
    """(name, content, labels) of a WebDataset shard: members of one key are one entry, .json among
    them its labels.

    WebDataset ends a key at the first dot. Names of clips may contain more dots (seconds, mostly),
    so only the text after the last dot counts as a type.
    """
    import fsspec
    from webdataset.tariterators import group_by_keys, tar_file_expander

    seen = set()

    def is_wanted(member: str) -> bool:
        """As in folders, what macOS adds (._clip.wav) is no audio. WebDataset would end at a name
        that is there again, whatever its case.
        """
        if member.lower() in seen or any(map(is_hidden, PurePosixPath(member).parts)):
            return False
        seen.add(member.lower())
        return True

    with fsspec.open(url, "rb", **connection_options(url)) as stream:
        sources = [{"url": url, "stream": stream}]
        for sample in group_by_keys(tar_file_expander(sources, select_files=is_wanted)):
            ends = [end for end in sample if not end.startswith("__")]
            audio = [end for end in ends if f".{end.rpartition('.')[2]}" in AUDIO_SUFFIXES]
            for end in audio:
                stem = end.rpartition(".")[0]
                labels = _labels(sample.get(f"{stem}.json" if stem else "json"))
                yield f"{sample['__key__']}.{end}", sample[end], labels
            if not audio:
                yield f"{sample['__key__']} ({', '.join(ends)})", b"", {}


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
