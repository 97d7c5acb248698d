"""Recordings -> embeddings: decoded ahead in threads, encoded together."""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config import parse_pooling
from ..data.sources import Item, Recording, decode, entries
from ..embedder import Embedder
from ..files import printable
from ..pooling import pool, time_step_ms

#: Recordings that are decoded ahead, and their bytes before decoding.
AHEAD, AHEAD_BYTES = 128, 8 << 20
#: Columns of numbers; the others are the same in all rows of a clip.
VALUES = ("timestamp", "embedding")
#: Names that a label cannot have.
OURS = ("path", "shard", "seconds", "provenance", *VALUES)


@dataclass
class Clip:
    """A recording with its rows, or with the reason why there are none."""

    input: int  #: place of its file or shard among the inputs
    path: str  #: its name in a table
    labels: dict[str, str]
    problem: str
    seconds: float = 0.0
    rows: int = 0  #: one, or one for each time step
    times: np.ndarray | None = None  #: (rows,) float32 milliseconds, of time steps
    embeddings: Iterable[Tensor] = ()  #: blocks of the rows, (…, D) float32


def embed_items(model: Embedder, items: Sequence[Item], timestamps: bool) -> Iterator[Clip]:
    """Embed the recordings of files and shards, in their order.

    Take the embeddings of a clip before the next clip: those of an hour are not in memory together.
    HearMwmaeError if a server fails.
    """
    clips: deque[Clip] = deque()

    def waveform(found: tuple[int, Recording]) -> Tensor | None:
        place, recording = found
        path = printable("/".join(filter(None, (items[place].name, recording.member))))
        clips.append(Clip(place, path, labels_of(recording.about), printable(recording.problem)))
        return None if recording.waveform is None else recording.waveform[None].to(model.device)

    # No generator, which would keep the waveform of an hour while it is encoded.
    waveforms = map(waveform, _decoded(items, model.sample_rate))
    for steps, samples in model.time_steps(filter(torch.is_tensor, waveforms)):
        while clips[0].problem:
            yield clips.popleft()
        clip = clips.popleft()
        clip.seconds = samples / model.sample_rate
        if timestamps:
            clip.times = time_step_ms(model.config, samples, model.timestamps).numpy()
            clip.rows = len(clip.times)
            clip.embeddings = _rows(steps, clip.rows)
        else:
            clip.rows = 1
            clip.embeddings = [pool(steps, parse_pooling(model.config.pooling)).cpu()]
        yield clip
    yield from clips


def labels_of(about: dict) -> dict[str, str]:
    """Labels as text: numbers, lists and the like as JSON."""
    labels = {}
    for name, value in about.items():
        if name not in OURS:
            text = value if isinstance(value, str) else json.dumps(value)
            labels[printable(name)] = printable(text)
    return labels


def _rows(pieces: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    for piece in pieces:
        yield piece[0, :count].cpu()
        count -= piece.shape[1]


def _decoded(items: Sequence[Item], sample_rate: int) -> Iterator[tuple[int, Recording]]:
    """Recordings in order, with the places of their inputs, decoded by threads while the caller
    encodes.
    """
    waiting: deque[tuple[int, int, Future[Recording]]] = deque()
    held = 0
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for place, item in enumerate(items):
            for entry in entries(item):
                size = item.size if entry.content is None else len(entry.content)
                while waiting and (len(waiting) == AHEAD or held + size > AHEAD_BYTES):
                    held -= waiting[0][1]
                    yield _first(waiting)
                waiting.append((place, size, threads.submit(decode, entry, sample_rate)))
                held += size
        while waiting:
            yield _first(waiting)


def _first(waiting: deque[tuple[int, int, Future[Recording]]]) -> tuple[int, Recording]:
    place, _, future = waiting.popleft()
    return place, future.result()
