"""Recordings -> rows of a table: decoded ahead in threads, encoded in groups."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from ..data.sources import Item, Recording, decode, entries
from ..embedder import Embedder
from ..files import printable

#: Chunks of clips that are encoded together: enough to fill the encoder's batches.
GROUP_CHUNKS = 128
#: Recordings that are decoded ahead, and their bytes before decoding.
AHEAD, AHEAD_BYTES = 128, 8 << 20
#: Columns of numbers; the others are the same in all rows of a clip.
VALUES = ("timestamp", "embedding")
#: Names that a label cannot have.
OURS = ("path", "shard", "seconds", "provenance", *VALUES)


@dataclass(frozen=True)
class Clip:
    """A recording with its rows, or with the reason why there are none."""

    item: Item  #: the file or shard that it comes from
    path: str  #: its name in a table
    rows: pa.Table | None  #: one, or one for each time step
    problem: str = ""


def embed_items(model: Embedder, items: Iterable[Item], timestamps: bool) -> Iterator[Clip]:
    """Embed the recordings of files and shards, in their order; failures come before their group.

    Raises Unreachable if a server fails.
    """
    group: list[tuple[Item, Recording, Tensor]] = []
    chunks = 0
    for item, recording in _decoded(items, model.sample_rate):
        waveform = recording.waveform
        if waveform is None:
            yield Clip(item, _path(item, recording), None, printable(recording.problem))
            continue
        frames = model.config.frontend.frames(len(waveform))
        more = -(-frames // model.config.input_frames)
        if group and chunks + more > GROUP_CHUNKS:
            yield from _embed(model, group, timestamps)
            group, chunks = [], 0
        group.append((item, recording, waveform))
        chunks += more
    if group:
        yield from _embed(model, group, timestamps)


def labels_of(about: dict) -> dict[str, str]:
    """Labels as text: numbers, lists and the like as JSON."""
    labels = {}
    for name, value in about.items():
        if name not in OURS:
            text = value if isinstance(value, str) else json.dumps(value)
            labels[printable(name)] = printable(text)
    return labels


def rows_of(values: pa.Table, path: str, seconds: float, about: dict) -> pa.Table:
    """The rows of a clip: its name, length and labels before its ``values``."""
    constants = {"path": path, "seconds": seconds} | labels_of(about)
    columns = {name: pa.repeat(value, len(values)) for name, value in constants.items()}
    return pa.table(columns | dict(zip(values.column_names, values.columns, strict=True)))


def no_rows(model: Embedder, timestamps: bool) -> pa.Table:
    """A table without rows, of a model's columns."""
    size = model.timestamp_embedding_size if timestamps else model.scene_embedding_size
    values = _values(torch.zeros(0, size), torch.zeros(0) if timestamps else None)
    return rows_of(values, "", 0.0, {})


def _decoded(items: Iterable[Item], sample_rate: int) -> Iterator[tuple[Item, Recording]]:
    """Recordings in order, decoded by threads while the caller encodes."""
    waiting: deque[tuple[Item, int, Future[Recording]]] = deque()
    held = 0
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for item in items:
            for entry in entries(item):
                size = item.size if entry.content is None else len(entry.content)
                while waiting and (len(waiting) == AHEAD or held + size > AHEAD_BYTES):
                    first, first_size, future = waiting.popleft()
                    held -= first_size
                    yield first, future.result()
                if size > AHEAD_BYTES:  # nothing is ahead; another thread would keep its memory
                    yield item, decode(entry, sample_rate)
                    continue
                waiting.append((item, size, pool.submit(decode, entry, sample_rate)))
                held += size
        while waiting:
            first, _, future = waiting.popleft()
            yield first, future.result()


def _embed(
    model: Embedder, group: list[tuple[Item, Recording, Tensor]], timestamps: bool
) -> Iterator[Clip]:
    waveforms = [waveform for _, _, waveform in group]
    times: Sequence[Tensor | None] = [None] * len(group)
    if timestamps:
        steps, times = model.embed(waveforms, timestamps=True)
    else:
        steps = list(model.embed(waveforms)[:, None])
    for (item, recording, waveform), embeddings, ms in zip(group, steps, times, strict=True):
        path, seconds = _path(item, recording), len(waveform) / model.sample_rate
        yield Clip(item, path, rows_of(_values(embeddings, ms), path, seconds, recording.about))


def _values(embeddings: Tensor, timestamps: Tensor | None) -> pa.Table:
    numbers = pa.array(embeddings.flatten().cpu().numpy())
    columns = {"embedding": pa.FixedSizeListArray.from_arrays(numbers, embeddings.shape[1])}
    if timestamps is not None:
        columns = {"timestamp": pa.array(timestamps.cpu().numpy()), **columns}
    return pa.table(columns)


def _path(item: Item, recording: Recording) -> str:
    return printable("/".join(filter(None, (item.name, recording.member))))
