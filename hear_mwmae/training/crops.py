"""Crops -> batches: clips read ahead or resident, and log-mel on the device."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from traceback import clear_frames
from typing import NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..errors import HearMwmaeError, reason
from ..frontend import LogMelFrontend, reflect_index
from .dataset import AudioDataset, BadClip
from .sampler import Crop

#: So many unreadable clips in a row mean that the data are bad.
MOST_BAD = 100
#: Batches that every worker process reads ahead.
AHEAD = 2
#: Clips in a batch while data are made resident.
LOADED_CLIPS = 64


class Batch(NamedTuple):
    """Clips, and where their crops begin; before any features are computed."""

    audio: Tensor  #: (sum of lengths,) int16, clip after clip: one tensor travels fastest
    lengths: list[int]  #: samples of each clip
    starts: list[int]  #: first frame of each clip's crop
    bad: list[int]  #: for each, how many unreadable clips it replaces


class Clips(Dataset):
    """``clips[crop]`` is (audio, (samples,) int16; start of the crop; unreadable clips before it).

    A clip that cannot be read is replaced by the next one of its kind among ``used``. Raises
    HearMwmaeError when MOST_BAD in a row cannot be read.
    """

    def __init__(self, dataset: AudioDataset | ResidentAudio, used: np.ndarray) -> None:
        self.dataset = dataset
        self.used = used

    def __getitem__(self, crop: Crop) -> tuple[Tensor, int, int]:
        for bad, clip in enumerate(self._candidates(crop.clip)):
            try:
                pcm = self.dataset.read(clip)
            except BadClip as error:
                reason = str(error)
                continue
            return pcm, crop.start, bad
        raise HearMwmaeError(
            f"{self.dataset.source}: {MOST_BAD} clips in a row cannot be read: {reason}"
        )

    def _candidates(self, clip: int) -> Iterator[int]:
        """A clip, and its replacements if it cannot be read."""
        yield clip
        kind_of = self.dataset.kind_of
        others = self.used[kind_of[self.used] == kind_of[clip]]
        place = int(np.searchsorted(others, clip))
        for ahead in range(1, MOST_BAD):
            yield int(others[(place + ahead) % len(others)])


class ResidentAudio:
    """The clips of ``clips`` decoded into one tensor on ``device``; reads as `AudioDataset` does.

    Every process holds all of them.

    Args:
        workers: processes that read while it is loaded.
        show: a progress bar.

    Raises HearMwmaeError when the device has too little free memory.
    """

    def __init__(
        self, clips: Clips, device: torch.device, workers: int, show: bool = False
    ) -> None:
        self.source: str = clips.dataset.source
        self.kind_of: np.ndarray = clips.dataset.kind_of
        self.samples: np.ndarray = clips.dataset.samples
        self.ends = np.zeros(len(self.samples), np.int64)
        self.ends[clips.used] = np.cumsum(self.samples[clips.used])
        self.bad: set[int] = set()
        self.audio = _allocate(int(self.ends.max()), device)
        crops = [Crop(clip, 0) for clip in clips.used.tolist()]
        groups = [crops[n : n + LOADED_CLIPS] for n in range(0, len(crops), LOADED_CLIPS)]
        with closing(read_batches(clips, groups, workers)) as batches:
            bar = tqdm(batches, "load", len(groups), unit="batch", disable=not show)
            for group, batch in zip(groups, bar, strict=True):
                pieces = batch.audio.split(batch.lengths)
                for crop, piece, bad in zip(group, pieces, batch.bad, strict=True):
                    if bad:
                        self.bad.add(crop.clip)
                    else:
                        self._clip(crop.clip).copy_(piece)

    def read(self, number: int) -> Tensor:
        """The samples of clip ``number``, (samples,) int16. Raises BadClip."""
        if number in self.bad:
            raise BadClip("it could not be read at the start")
        return self._clip(number)

    def _clip(self, number: int) -> Tensor:
        return self.audio[self.ends[number] - self.samples[number] : self.ends[number]]


def _allocate(samples: int, device: torch.device) -> Tensor:
    """(samples,) int16. Raises HearMwmaeError when the device has too little free memory."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:  # of every process of this machine
        free = psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if 2 * samples > free:
        raise HearMwmaeError(
            f"resident = true needs {2 * samples / 1e9:.2f} GB on {device} for the samples, where "
            f"{free / 1e9:.2f} GB are free: read them as they are needed (resident = false)"
        )
    return torch.empty(samples, dtype=torch.int16, device=device)


def collate(clips: Iterable[tuple[Tensor, int, int]]) -> Batch:
    """A batch of what `Clips` give."""
    audio, starts, bad = zip(*clips, strict=True)
    return Batch(torch.cat(audio), list(map(len, audio)), list(starts), list(bad))


def read_batches(
    clips: Clips, crops: Iterable[list[Crop]], workers: int, pin_memory: bool = False
) -> Generator[Batch]:
    """A batch for each of ``crops``, in their order, read ahead by ``workers`` processes; 0 reads
    them as they are asked for.

    Raises HearMwmaeError when a batch cannot be read, or a worker is killed.
    """
    loader = DataLoader(
        clips,
        batch_sampler=crops,
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # the default would draw from torch's generator
    )
    with worker_errors():
        try:
            yield from loader
        except Exception as error:
            # The iterator in these frames would keep its workers alive as long as the error.
            clear_frames(error.__traceback__)
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


@contextmanager
def worker_errors() -> Iterator[None]:
    """Turns torch's RuntimeError about a killed reading process, which it raises at any moment,
    into a HearMwmaeError.
    """
    try:
        yield
    except RuntimeError as error:
        if not re.match(r"DataLoader worker \(pid", str(error)):
            raise  # includes errors in a worker, which carry its traceback
        said = f"a process that reads audio has ended (out of memory?): {reason(error)}"
        raise HearMwmaeError(said) from error


def log_mel_crops(frontend: LogMelFrontend, batch: Batch, crop_frames: int) -> Tensor:
    """Each clip's log-mel, normalised as a whole, then cropped: (B, crop_frames, channels * n_mels)
    float32, on the device of ``frontend``.

    A clip shorter than a crop is extended by repeated reflection, exactly as at inference. Where a
    clip was replaced by a shorter one, its crop begins as late as it can.
    """
    audio = batch.audio.to(frontend.device, non_blocking=True).float() / 32768
    clips = audio.split(batch.lengths)
    crops: dict[int, Tensor] = {}
    for length in sorted(set(batch.lengths)):  # clips of one length together; most have ten seconds
        members = [place for place, other in enumerate(batch.lengths) if other == length]
        together = torch.stack([clips[place] for place in members])
        features = frontend(together, unbiased=False)
        for place, frames in zip(members, features, strict=True):
            start = min(batch.starts[place], max(len(frames) - crop_frames, 0))
            crop = frames[start : start + crop_frames]
            if len(crop) < crop_frames:
                crop = crop[reflect_index(len(crop), 0, crop_frames, crop.device)]
            crops[place] = crop
    return torch.stack([crops[place] for place in range(len(clips))])
