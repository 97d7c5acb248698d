"""Clips of a pack -> batches of random crops: the draws, the reads (ahead or resident), and log-mel
on the device.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import psutil
import torch
from scipy.signal import resample_poly
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from tqdm import tqdm

from ..errors import HearMwmaeError
from ..frontend import LogMelFrontend, reflect_index
from .pack import BadRecord, Pack

if TYPE_CHECKING:
    from ..training.recipe import Recipe

#: So many unreadable clips in a row mean that the pack is bad.
MOST_BAD = 100
#: Largest denominator of speeds, which keeps the filters short. The coarsest steps, next to 1, are
#: 0.7 of a semitone.
FINEST_SPEED = 24
#: Batches that every worker process reads ahead.
AHEAD = 2
#: Clips in a batch while a pack is made resident.
LOADED_CLIPS = 64


class Draw(NamedTuple):
    """One crop of a batch."""

    clip: int  #: its number in the pack
    speed: Fraction  #: of playing; below 1 is lower and longer
    start: int  #: first frame of the crop


class Batch(NamedTuple):
    """Clips, as played, and where their crops begin; int16, before any features are computed."""

    audio: Tensor  #: (sum of lengths,) int16, clip after clip: one tensor travels from a worker faster than many
    lengths: list[int]  #: samples of each clip
    starts: list[int]  #: first frame of each clip's crop
    bad: list[int]  #: for each, how many unreadable clips it replaces


class StepSampler:
    """``sampler[step]`` is what process ``rank`` of ``world`` draws for that step's batch: crops
    rank, rank + world, ... of it.

    The clips of a batch, their speeds and the places of their crops are a pure function of seed and
    step. So a run resumes at any step without a saved position, and a batch is the same for any
    number of processes and workers.

    Raises HearMwmaeError when the pack lacks a kind of the recipe, or has another sample rate.
    """

    def __init__(self, pack: Pack, recipe: Recipe, rank: int = 0, world: int = 1) -> None:
        config = recipe.model_config()
        if config.frontend.sample_rate != pack.about["sample_rate"]:
            raise HearMwmaeError(
                f"the model hears {config.frontend.sample_rate} Hz, the audio in {pack.url} has {pack.about['sample_rate']} Hz"
            )
        self.seed, self.semitones, self.share = recipe.seed, recipe.semitones, slice(rank, None, world)
        self.frontend, self.crop_frames = config.frontend, config.input_frames
        self.numbers, self.samples = used_clips(pack, recipe), pack.clips["samples"]
        used = pack.clips[self.numbers]
        self.pick = ByKind(used, pack.kinds, recipe) if recipe.kinds else ByEpoch(len(used), recipe)

    def __getitem__(self, step: int) -> list[Draw]:
        rng = np.random.default_rng([self.seed, step])
        clips = self.numbers[self.pick(step, rng)].tolist()
        speeds = [Fraction(1)] * len(clips)
        if self.semitones:
            shifts = rng.uniform(-self.semitones, self.semitones, len(clips))
            speeds = [Fraction(2 ** (shift / 12)).limit_denominator(FINEST_SPEED) for shift in shifts]
        # All of the batch is drawn, so that the share of a process does not depend on how many
        # there are.
        return [
            Draw(clip, speed, self._start(played_length(int(self.samples[clip]), speed), rng))
            for clip, speed in zip(clips, speeds, strict=True)
        ][self.share]

    def steps(self, first: int, last: int) -> Iterator[list[Draw]]:
        """The draws of steps first..last-1."""
        return (self[step] for step in range(first, last))

    def _start(self, samples: int, rng: np.random.Generator) -> int:
        return int(rng.integers(0, max(self.frontend.frames(samples) - self.crop_frames, 0) + 1))


def used_clips(pack: Pack, recipe: Recipe) -> np.ndarray:
    """Numbers of the clips that the recipe's data_fraction leaves, in their order."""
    numbers = np.arange(len(pack.clips))
    if recipe.data_fraction == 1:
        return numbers
    order = np.random.default_rng([recipe.seed, 0, 2]).permutation(numbers)  # differs from the seeds of steps and epochs
    return np.sort(order[: max(1, round(recipe.data_fraction * len(order)))])


class ByKind:
    """(step, generator) -> places of its batch's clips, drawn with replacement: the recipe's share
    of each kind.

    Within a kind, clips are drawn in proportion to the square root of their length: a ten-second
    clip offers more crops than a drum hit, but not fifty times as much to learn.
    """

    def __init__(self, clips: np.ndarray, kinds: list[str], recipe: Recipe) -> None:
        known = [kinds[place] for place in np.unique(clips["kind"])]
        if unknown := sorted(set(recipe.kinds) - set(known)):
            raise HearMwmaeError(
                f"the pack has no clips of kind {unknown}; it has {sorted(known)}: give shares of these, or --set 'kinds={{}}', "
                "by which every clip comes once per epoch"
            )
        weights = np.zeros(len(clips))
        for kind, share in recipe.kinds.items():
            chosen = clips["kind"] == kinds.index(kind)
            root = np.sqrt(clips["samples"][chosen])
            weights[chosen] = share * root / root.sum()
        cumulative = np.cumsum(weights)
        self.cumulative, self.batch_size = cumulative / cumulative[-1], recipe.batch_size  # ends at 1 in spite of rounding

    def __call__(self, step: int, rng: np.random.Generator) -> np.ndarray:
        return np.searchsorted(self.cumulative, rng.random(self.batch_size), side="right")


class ByEpoch:
    """(step, generator) -> places of its batch's clips: every clip once per epoch, in a new order;
    a batch may span epochs.
    """

    def __init__(self, count: int, recipe: Recipe) -> None:
        self.count, self.seed, self.batch_size = count, recipe.seed, recipe.batch_size

    def __call__(self, step: int, rng: np.random.Generator) -> np.ndarray:
        epochs, places = np.divmod(np.arange(step * self.batch_size, (step + 1) * self.batch_size), self.count)
        orders = (_epoch_order(self.seed, epoch, self.count) for epoch in epochs.tolist())
        return np.array([order[place] for order, place in zip(orders, places, strict=True)])


@lru_cache(maxsize=2)  # a batch is of one epoch, mostly, as are those after it
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    # The last word of the seed differs from the seeds of steps.
    return np.random.default_rng([seed, epoch, 1]).permutation(count)


class Clips(Dataset):
    """``clips[draw]`` is (audio as played, (samples,) int16; start of its crop; clips that could
    not be read before it).

    A clip that cannot be read is replaced by the next one of its kind among ``numbers``. Raises
    HearMwmaeError when MOST_BAD in a row cannot be read, when a shard is missing, and when a server
    keeps failing.
    """

    def __init__(self, pack: Pack, numbers: np.ndarray) -> None:
        self.pack, self.numbers = pack, numbers

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int, int]:
        for bad, number in enumerate(self.candidates(draw.clip)):
            try:
                return torch.from_numpy(play(self.pack.read(number), draw.speed)), draw.start, bad
            except BadRecord as error:
                last = error
        raise HearMwmaeError(f"{self.pack.url}: {MOST_BAD} clips in a row cannot be read; the last one: {last}")

    def candidates(self, number: int) -> Iterator[int]:
        """A clip, and its replacements if it cannot be read."""
        yield number
        kinds = self.pack.clips["kind"]
        others = self.numbers[kinds[self.numbers] == kinds[number]]
        place = int(np.searchsorted(others, number))
        yield from (int(others[(place + ahead) % len(others)]) for ahead in range(1, MOST_BAD))


class ResidentClips(Dataset):
    """The same ``clips[draw]``, from one tensor on ``device`` into which all of ``clips`` are
    decoded at the start.

    Clips at other speeds are copied to the CPU, where `play` resamples them. Every process holds
    the whole pack.

    Args:
        workers: processes that read while it is loaded.
        show: a progress bar.

    Raises HearMwmaeError when the device has too little free memory.
    """

    def __init__(self, clips: Clips, device: torch.device, workers: int, show: bool = False) -> None:
        numbers, self.samples = clips.numbers, clips.pack.clips["samples"]
        self.ends, self.bad = np.zeros((2, len(self.samples)), np.int64)
        self.ends[numbers] = np.cumsum(self.samples[numbers])
        self.audio = _allocate(int(self.ends.max()), device)
        groups = [numbers[start : start + LOADED_CLIPS].tolist() for start in range(0, len(numbers), LOADED_CLIPS)]
        draws = ([Draw(number, Fraction(1), 0) for number in group] for group in groups)
        bar = tqdm(total=len(numbers), desc="load", unit="clip", disable=not show)
        with worker_errors(), closing(read_batches(clips, draws, workers)) as batches, bar:
            for group, batch in zip(groups, batches, strict=True):
                self.bad[group] = batch.bad
                for number, audio in zip(group, batch.audio.split(batch.lengths), strict=True):
                    if not self.bad[number]:
                        self._audio(number).copy_(audio)
                bar.update(len(group))
        self.instead = np.arange(len(self.samples))
        for number in np.flatnonzero(self.bad):
            self.instead[number] = next(other for other in clips.candidates(int(number)) if not self.bad[other])

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int, int]:
        audio = self._audio(int(self.instead[draw.clip]))
        if draw.speed != 1:
            audio = torch.from_numpy(play(audio.cpu().numpy(), draw.speed)).to(audio.device)
        return audio, draw.start, int(self.bad[draw.clip])

    def _audio(self, number: int) -> Tensor:
        return self.audio[self.ends[number] - self.samples[number] : self.ends[number]]


def _allocate(samples: int, device: torch.device) -> Tensor:
    """(samples,) int16. Raises HearMwmaeError when the device has too little free memory."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:  # of every process of this machine
        free = psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if 2 * samples > free:
        raise HearMwmaeError(
            f"resident = true needs {2 * samples / 1e9:.2f} GB on {device} for the pack's samples, where {free / 1e9:.2f} GB are "
            "free: read them as they are needed (resident = false)"
        )
    return torch.empty(samples, dtype=torch.int16, device=device)


def played_length(samples: int, speed: Fraction) -> int:
    """Number of samples after playing at ``speed``."""
    return -(-samples * speed.denominator // speed.numerator)


def play(pcm: np.ndarray, speed: Fraction) -> np.ndarray:
    """(samples,) int16 as a tape at ``speed`` would sound, lower and longer below 1:
    (played_length(samples, speed),) int16.
    """
    if speed == 1:
        return pcm
    played = resample_poly(pcm.astype(np.float32), speed.denominator, speed.numerator)
    return np.clip(np.round(played), -32768, 32767).astype(np.int16)


def collate(clips: Iterable[tuple[Tensor, int, int]]) -> Batch:
    """A batch of what `Clips` or `ResidentClips` give."""
    audio, starts, bad = zip(*clips, strict=True)
    return Batch(torch.cat(audio), list(map(len, audio)), list(starts), list(bad))


def read_batches(
    clips: Clips | ResidentClips, draws: Iterable[list[Draw]], workers: int, pin_memory: bool = False
) -> Generator[Batch]:
    """A batch for each of ``draws``, in their order, read ahead by ``workers`` processes; 0 reads
    them as they are asked for.

    Raises HearMwmaeError when a batch cannot be read, or a worker is killed.
    """
    loader = DataLoader(
        clips,
        batch_sampler=draws,
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # the default would draw from torch's generator, for workers that draw nothing
    )
    ahead = iter(loader)
    try:
        with worker_errors():
            yield from ahead
    except HearMwmaeError as error:
        # The message of an error from a worker is a traceback, which ends with the message.
        raise HearMwmaeError(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from error
    finally:
        # A traceback keeps its frames alive, and with them workers, for which the process would
        # wait at its end.
        if isinstance(ahead, _MultiProcessingDataLoaderIter):
            ahead._shutdown_workers()


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
        raise HearMwmaeError(f"a process that reads audio has ended (out of memory?): {str(error).splitlines()[0]}") from error


def log_mel_crops(frontend: LogMelFrontend, batch: Batch, crop_frames: int) -> Tensor:
    """(B, crop_frames, n_mels) float32 on the device of ``frontend``: each clip's log-mel,
    normalised as a whole, then cropped.

    A clip shorter than a crop is extended by repeated reflection, exactly as at inference. Where a
    clip was replaced by a shorter one, its crop begins as late as it can.
    """
    audio = batch.audio.to(frontend.device, non_blocking=True).float() / 32768
    clips = audio.split(batch.lengths)
    crops: dict[int, Tensor] = {}
    for length in sorted(set(batch.lengths)):  # clips of one length together; most have ten seconds
        members = [position for position, other in enumerate(batch.lengths) if other == length]
        features = frontend(torch.stack([clips[position] for position in members]), unbiased=False)
        for position, frames in zip(members, features, strict=True):
            start = min(batch.starts[position], max(len(frames) - crop_frames, 0))
            piece = frames[start : start + crop_frames]
            if len(piece) < crop_frames:
                piece = piece[reflect_index(len(piece), 0, crop_frames, piece.device)]
            crops[position] = piece
    return torch.stack([crops[position] for position in range(len(clips))])
