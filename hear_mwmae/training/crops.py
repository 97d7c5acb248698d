"""Crops -> batches: clips read ahead or resident, and log-mel on the device."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterable
from contextlib import closing
from traceback import clear_frames
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..errors import HearMwmaeError, reason
from ..frontend import LogMelFrontend, reflect_index
from .dataset import AudioDataset
from .sampler import StepSampler

Item = TypeVar("Item")


class Batch(NamedTuple):
    """Clips, and where their crops begin; before any features are computed."""

    audio: Tensor  #: (sum of lengths,) int16, clip after clip: one tensor travels fastest
    lengths: list[int]  #: samples of each clip
    starts: list[int]  #: first frame of each clip's crop


class Batches(Dataset[Batch]):
    """``batches[step]`` is what a process reads for a step."""

    def __init__(self, clips: AudioDataset | ResidentAudio, sampler: StepSampler) -> None:
        self.clips = clips
        self.sampler = sampler

    def __getitem__(self, step: int) -> Batch:
        crops = self.sampler[step]
        audio = [self.clips[crop.clip] for crop in crops]
        return Batch(torch.cat(audio), list(map(len, audio)), [crop.start for crop in crops])


class ResidentAudio:
    """The clips ``used`` decoded into one tensor on ``device``; reads as `AudioDataset` does.

    Every process holds all of them.

    Args:
        workers: processes that read while it is loaded.
        show: a progress bar.
    """

    def __init__(
        self,
        dataset: AudioDataset,
        used: np.ndarray,
        device: torch.device,
        workers: int,
        show: bool = False,
    ) -> None:
        self.samples = dataset.samples
        self.ends = np.zeros(len(self.samples), np.int64)
        self.ends[used] = np.cumsum(self.samples[used])
        self.audio = torch.empty(int(self.ends.max()), dtype=torch.int16, device=device)
        with closing(read_ahead(dataset, used.tolist(), workers)) as clips:
            bar = tqdm(clips, "load", len(used), unit="clip", disable=not show)
            for number, clip in zip(used, bar, strict=True):
                self[number].copy_(clip)

    def __getitem__(self, number: int) -> Tensor:
        """The samples of clip ``number``, (samples,) int16."""
        return self.audio[self.ends[number] - self.samples[number] : self.ends[number]]


def read_ahead(
    items: Dataset[Item], order: Iterable[int], workers: int, pin_memory: bool = False
) -> Generator[Item]:
    """``items[number]`` for the numbers of ``order``, read ahead by ``workers`` processes; 0 reads
    them as they are asked for.

    Raises HearMwmaeError when a clip cannot be read.
    """
    loader: DataLoader[Item] = DataLoader(
        items,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # the default would draw from torch's generator
    )
    try:
        yield from loader
    except Exception as error:
        # The iterator in these frames would keep its workers alive as long as the error.
        clear_frames(error.__traceback__)
        if str(error).startswith("DataLoader worker (pid"):
            said = f"a process that reads audio has ended (out of memory?): {reason(error)}"
            raise HearMwmaeError(said) from error
        if not isinstance(error, HearMwmaeError):
            raise
        # An error from a worker is a traceback, which ends with the message.
        message = str(error).rpartition(f"{type(error).__name__}: ")[2].strip()
        raise HearMwmaeError(message) from error


def _ignore_signals(worker: int) -> None:
    """Ignore the signals that stop a run: they are often sent to all processes, and readers must
    outlive the saving.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def log_mel_crops(frontend: LogMelFrontend, batch: Batch, crop_frames: int) -> Tensor:
    """Each clip's log-mel, normalised as a whole, then cropped: (B, crop_frames, channels * n_mels)
    float32, on the device of ``frontend``.

    A clip shorter than a crop is extended by repeated reflection, exactly as at inference.
    """
    audio = batch.audio.to(frontend.device, non_blocking=True).float() / 32768
    clips = audio.split(batch.lengths)
    crops: dict[int, Tensor] = {}
    for length in sorted(set(batch.lengths)):  # clips of one length together; most have ten seconds
        members = [place for place, other in enumerate(batch.lengths) if other == length]
        together = torch.stack([clips[place] for place in members])
        features = frontend(together, unbiased=False)
        for place, frames in zip(members, features, strict=True):
            crop = frames[batch.starts[place] :][:crop_frames]
            if len(crop) < crop_frames:
                crop = crop[reflect_index(len(crop), 0, crop_frames, crop.device)]
            crops[place] = crop
    return torch.stack([crops[place] for place in range(len(clips))])
