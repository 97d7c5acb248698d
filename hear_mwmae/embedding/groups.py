"""Recordings -> model, in groups that depend only on the list of recordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..audio import read_audio
from ..data.sources import Item, read_item
from ..embedder import Embedder
from ..errors import HearMwmaeError
from ..files import printable
from .parts import Group

#: Chunks of short clips per group: enough to fill the encoder's batches.
GROUP_CHUNKS = 128
#: A longer file, or a file of unknown length, is embedded alone, as a stream.
LONG_SECONDS = 120.0


class Sink(Protocol):
    """Receiver of rows."""

    def append(self, embeddings: np.ndarray, timestamps: np.ndarray | None) -> None:
        """(n, size) rows of the next group, and their (n,) timestamps, if requested."""

    def commit(self, group: Group) -> None:
        """Assign the rows since the last group to the clips of ``group``, in their order."""

    def rollback(self) -> None:
        """Discard the rows since the last group."""


def embed_items(
    model: Embedder,
    items: Sequence[Item],
    seconds: Mapping[str, float | None],
    timestamps: bool,
    sink: Sink,
    skip: int = 0,
    progress: Callable[[float], object] = lambda seconds: None,
) -> None:
    """Embed the recordings of files, or of one shard, in their order.

    Unreadable recordings become failures of their group.

    Args:
        seconds: length of files by the items' url; None if unknown.
        skip: number of recordings at the beginning that are done: complete groups of an earlier
            run.
        progress: called with the seconds of audio that are done.

    Raises:
        HearMwmaeError: a server fails.
        OSError: the sink cannot write.
    """
    waiting = _Waiting(model, timestamps, sink, progress)
    for item in items:
        if not item.is_shard and skip:
            skip -= 1
        elif item.is_shard:
            for recording in read_item(item, model.sample_rate, skip):
                waiting.add("/".join(filter(None, (item.name, recording.member))), recording.waveform, recording.problem)
        elif (length := seconds[item.url]) is None or length > LONG_SECONDS:
            waiting.embed()
            _embed_long(model, item, timestamps, sink, progress)
        else:
            (recording,) = read_item(item, model.sample_rate)
            waiting.add(item.name, recording.waveform, recording.problem)
    waiting.embed()


class _Waiting:
    """Recordings of the next group."""

    def __init__(self, model: Embedder, timestamps: bool, sink: Sink, progress: Callable[[float], object]) -> None:
        self.model, self.timestamps, self.sink, self.progress = model, timestamps, sink, progress
        self._begin()

    def add(self, name: str, waveform: Tensor | None, problem: str) -> None:
        try:
            if waveform is None:
                raise HearMwmaeError(problem)
            self.model.check_audio(waveform[None])
        except HearMwmaeError as error:
            self.group.failures.append((printable(name), printable(str(error))))
            return
        frames = self.model.config.frontend.frames(len(waveform))
        chunks = -(-frames // self.model.config.input_frames)
        if self.clips and self.chunks + chunks > GROUP_CHUNKS:
            self.embed()
        self.group.clips.append((printable(name), 1))
        self.clips.append(waveform)
        self.chunks += chunks

    def embed(self) -> None:
        if self.timestamps:
            names = [name for name, _ in self.group.clips]
            self.group.clips = []
            for _, same in groupby(self.clips, key=len):  # clips of one length are one batch
                for rows, times in zip(*self.model.timestamp_embeddings(torch.stack(list(same))), strict=True):
                    self.sink.append(rows.cpu().numpy(), times.cpu().numpy())
                    self.group.clips.append((names[len(self.group.clips)], len(rows)))
        elif self.clips:
            self.sink.append(self.model.scene_embeddings_of_clips(self.clips).cpu().numpy(), None)
        if self.group.recordings:
            self.sink.commit(self.group)
            self.progress(sum(map(len, self.clips)) / self.model.sample_rate)
        self._begin()

    def _begin(self) -> None:
        self.group, self.chunks = Group(), 0
        self.clips: list[Tensor] = []


def _embed_long(model: Embedder, item: Item, timestamps: bool, sink: Sink, progress: Callable[[float], object]) -> None:
    name, rows = printable(item.name), 1
    try:
        blocks = [read_audio(item.url, model.sample_rate)]
        if timestamps:
            rows = 0
            step = model.config.patch_size[0] * model.config.frontend.hop_length / model.sample_rate
            for embeddings, times in model.timestamp_blocks(blocks):
                sink.append(embeddings.cpu().numpy(), times.cpu().numpy())
                rows += len(times)
                progress(len(times) * step)
        else:
            sink.append(model.scene_embedding_of_blocks(blocks, progress)[None].cpu().numpy(), None)
    except HearMwmaeError as error:
        sink.rollback()
        sink.commit(Group(failures=[(name, printable(str(error).removeprefix(f"{item.url}: ")))]))
    else:
        sink.commit(Group([(name, rows)]))
