"""Where audio comes from before it is packed: folders, manifests, WebDataset and Parquet shards, here or on a server."""

from __future__ import annotations

import csv
import json
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec
import torch
from braceexpand import braceexpand
from webdataset.tariterators import group_by_keys, tar_file_expander

from ..audio import AUDIO_SUFFIXES, find_audio, read_audio

SHARD_SUFFIXES = (".tar", ".parquet")
#: Columns that a manifest has to have.
MANIFEST_COLUMNS = ("path", "kind")
#: Rows of a Parquet file that are held at a time.
PARQUET_ROWS = 16


@dataclass(frozen=True)
class Item:
    """One audio file, or one shard of many: what is read as a whole."""

    url: str
    size: int  #: bytes, as far as they are known
    about: dict  #: what its clips are labelled with; "kind" is always there

    @property
    def is_shard(self) -> bool:
        return self.url.endswith(SHARD_SUFFIXES)


@dataclass(frozen=True)
class Recording:
    """Audio as it was found: a waveform, or why there is none."""

    name: str
    about: dict
    waveform: torch.Tensor | None  #: (samples,) float32
    problem: str = ""


def list_items(sources: Sequence[str], kind: str) -> list[Item]:
    """What lies behind ``sources``, in a fixed order; ``kind`` labels clips of sources that say nothing of it.

    A source is a folder, a manifest (.csv), an audio file, or shards (.tar, .parquet): a path or URL of any file system that
    fsspec knows (https, s3, gs, hf, ...), with * where it can list, and {000..123}. Raises ValueError where nothing is found.
    """
    items: list[Item] = []
    for source in sources:
        if source.endswith(SHARD_SUFFIXES):
            items += _shards(source, kind)
        elif source.endswith(".csv"):
            items += _manifest(Path(source), kind)
        else:
            files = find_audio([source])
            items += [Item(str(file), file.stat().st_size, {"path": str(file), "kind": kind}) for file in files]
    return items


def read_item(item: Item, sample_rate: int) -> Iterator[Recording]:
    """The recordings in a file or shard, one after the other; what is damaged comes as a problem, and does not end the rest.

    Raises OSError when a disk, a server or the way to it fails: that is no fault of the data.
    """
    if not item.is_shard:
        yield _decode(item.url, item.url, item.about, sample_rate)
        return
    entries = _tar_entries(item.url) if item.url.endswith(".tar") else _parquet_entries(item.url)
    try:
        for name, content, about in entries:
            yield _decode_bytes(name, content, item.about | about, sample_rate)
    except (tarfile.TarError, ValueError) as error:
        yield Recording(item.url, item.about, None, f"damaged, what follows is lost: {_reason(error)}")
    except OSError:
        raise
    except Exception as error:  # every file system has its own
        raise OSError(f"{item.url} cannot be read: {_reason(error)}") from error


def _shards(source: str, kind: str) -> list[Item]:
    items = []
    for pattern in braceexpand(source):
        filesystem, path = fsspec.core.url_to_fs(pattern)
        paths = sorted(filesystem.glob(path)) if "*" in pattern else [path]
        if not paths or not filesystem.exists(paths[0]):
            raise ValueError(f"no such shard: {pattern}")
        for found in paths:
            url = filesystem.unstrip_protocol(found)
            items.append(Item(url, filesystem.size(found) or 0, {"kind": kind}))
    return items


def _manifest(path: Path, kind: str) -> list[Item]:
    """Rows of a CSV: path (relative to it), and whatever else, which goes with the clips; kind may be one for all."""
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            rows, columns = list(reader), reader.fieldnames or []
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no CSV in UTF-8: {error}") from error
    if "path" not in columns:
        raise ValueError(f"{path} has no column path; its first line names {columns}")
    if not rows:
        raise ValueError(f"{path} lists no audio")
    items = []
    for row in rows:
        file = path.parent / row["path"]
        size = file.stat().st_size if file.is_file() else 0  # that it is missing is found, and listed, when it is read
        items.append(Item(str(file), size, {"kind": kind} | {k: v for k, v in row.items() if k and v is not None}))
    return items


def _tar_entries(url: str) -> Iterator[tuple[str, bytes, dict]]:
    """(name, content, labels) of a WebDataset shard: members of one key are one entry, .json among them its labels."""
    with fsspec.open(url, "rb") as stream:
        for sample in group_by_keys(tar_file_expander([{"url": url, "stream": stream}])):
            audio = next((end for end in sample if f".{end}" in AUDIO_SUFFIXES), None)
            if audio:
                yield f"{sample['__key__']}.{audio}", sample[audio], _labels(sample.get("json"))


def _parquet_entries(url: str) -> Iterator[tuple[str, bytes, dict]]:
    """(name, content, labels) of a Parquet file as the Hub's `datasets` writes it: audio is a struct of bytes and path."""
    import pyarrow.parquet as pq

    with fsspec.open(url, "rb") as stream:
        file = pq.ParquetFile(stream)
        audio = [field.name for field in file.schema_arrow if "bytes" in [child.name for child in _children(field.type)]]
        if not audio:
            raise ValueError(f"{url} has no column of audio (a struct with bytes); it has {file.schema_arrow.names}")
        for number, batch in enumerate(file.iter_batches(PARQUET_ROWS, columns=audio[:1])):
            for row, entry in enumerate(batch.column(0).to_pylist()):
                name = (entry or {}).get("path") or f"row-{number * PARQUET_ROWS + row}"
                yield name, (entry or {}).get("bytes") or b"", {}


def _reason(error: Exception) -> str:
    """Without what webdataset appends to the arguments of an error: what it was reading."""
    return f"{type(error).__name__}: {error.args[0] if error.args else error}"


def _children(kind: object) -> Iterable:
    import pyarrow as pa

    return [kind.field(number) for number in range(kind.num_fields)] if pa.types.is_struct(kind) else []


def _labels(content: bytes | None) -> dict:
    try:
        labels = json.loads(content or b"{}")
    except ValueError:
        return {}
    return labels if isinstance(labels, dict) else {}


def _decode_bytes(name: str, content: bytes, about: dict, sample_rate: int) -> Recording:
    with tempfile.NamedTemporaryFile(suffix=Path(name).suffix) as file:
        file.write(content)
        file.flush()
        return _decode(name, file.name, about, sample_rate)


def _decode(name: str, path: str, about: dict, sample_rate: int) -> Recording:
    about = {"path": name} | about
    try:
        return Recording(name, about, read_audio(path, sample_rate))
    except ValueError as error:
        return Recording(name, about, None, str(error).replace(path, name))
