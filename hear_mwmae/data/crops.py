"""A pack of audio -> batches of random crops: which clips, read ahead by worker processes, and their log-mel on the device."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from scipy.signal import resample_poly
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import HearMwmaeError
from ..frontend import LogMelFrontend, normalise, reflect_index
from ..training.recipe import Recipe
from .pack import BadRecord, Pack

#: Clips in a row that cannot be read before it is the pack that is bad.
MOST_BAD = 100
#: Denominators of speeds go up to this: it keeps the filters short. The coarsest steps, those next to 1, are 0.7 of a semitone.
FINEST_SPEED = 24
#: Batches that every worker process reads ahead.
AHEAD = 2


@dataclass
class RawBatch:
    """One process's share of a batch, as it comes from the pack."""

    audio: Tensor  #: (sum of lengths,) int16, clip after clip: one tensor travels from a worker faster than many
    lengths: list[int]  #: samples of each clip
    starts: list[int]  #: first frame of each clip's crop
    bad: int = 0  #: clips that could not be read, and in whose place stands the next one of their kind
    problem: str = ""  #: why there is no batch

    def checked(self) -> RawBatch:
        """Itself, or HearMwmaeError with the problem."""
        if self.problem:
            raise HearMwmaeError(self.problem)
        return self

    def pin_memory(self) -> RawBatch:
        return RawBatch(self.audio.pin_memory(), self.lengths, self.starts, self.bad, self.problem)


class CropBatches(Dataset):
    """``batches[step]`` is what process ``rank`` of ``world`` gets of that step's batch: clips rank, rank + world, ... of it.

    The clips of a batch and the places of their crops are a pure function of seed and step. So a run resumes at any step without
    a saved position, and a batch is the same for any number of processes and workers.

    Raises HearMwmaeError when the recipe wants kinds of clips that the pack has not, or another sample rate.
    """

    def __init__(self, pack: Pack, recipe: Recipe, rank: int = 0, world: int = 1) -> None:
        self.pack, self.seed, self.semitones, self.rank, self.world = pack, recipe.seed, recipe.semitones, rank, world
        config = recipe.model_config()
        if config.frontend.sample_rate != pack.about["sample_rate"]:
            raise HearMwmaeError(
                f"the model hears {config.frontend.sample_rate} Hz, the audio in {pack.url} has {pack.about['sample_rate']} Hz"
            )
        self.crop_frames, self.hop_length = config.input_frames, config.frontend.hop_length
        self.numbers = np.arange(len(pack.clips))
        if recipe.data_fraction < 1:
            order = np.random.default_rng([recipe.seed, 0, 2]).permutation(self.numbers)  # no generator of a step or an epoch
            self.numbers = np.sort(order[: max(1, round(recipe.data_fraction * len(order)))])
        clips = pack.clips[self.numbers]
        self.draw = ByKind(clips, pack.kinds, recipe) if recipe.kinds else ByEpoch(len(clips), recipe)

    def __getitem__(self, step: int) -> RawBatch:
        return self.read(step)

    def read(self, step: int, most: int | None = None) -> RawBatch:
        """``batches[step]``, or no more than its first ``most`` clips."""
        rng = np.random.default_rng([self.seed, step])
        picks = self.numbers[self.draw(step, rng)]
        samples, speeds = self.pack.clips["samples"][picks], [Fraction(1)] * len(picks)
        if self.semitones:
            shifts = rng.uniform(-self.semitones, self.semitones, len(picks))
            speeds = [Fraction(2 ** (shift / 12)).limit_denominator(FINEST_SPEED) for shift in shifts]
            samples = np.array([played_length(int(count), speed) for count, speed in zip(samples, speeds, strict=True)])
        frames = samples // self.hop_length + 1
        # Drawn for the whole batch, so that the share of a process does not depend on how many there are.
        starts = [int(rng.integers(0, max(int(count) - self.crop_frames, 0) + 1)) for count in frames]
        mine = slice(self.rank, most and self.rank + most * self.world, self.world)
        try:
            clips = [self._read(int(pick)) for pick in picks[mine]]
            clips = [(play(pcm, speed), bad) for (pcm, bad), speed in zip(clips, speeds[mine], strict=True)]
        except (HearMwmaeError, OSError) as error:
            # As a value: out of a worker process, an exception comes with its traceback for a message, as a bug should.
            return RawBatch(torch.zeros(0, dtype=torch.int16), [], [], problem=str(error))
        audio = torch.from_numpy(np.concatenate([pcm for pcm, _ in clips]))
        return RawBatch(audio, [len(pcm) for pcm, _ in clips], starts[mine], sum(bad for _, bad in clips))

    def _read(self, number: int) -> tuple[np.ndarray, int]:
        """A clip, or the next one of its kind that can be read, and how many could not."""
        try:
            return self.pack.read(number), 0
        except BadRecord as error:
            last = error
        kinds = self.pack.clips["kind"]
        others = self.numbers[kinds[self.numbers] == kinds[number]]
        place = int(np.searchsorted(others, number))
        for bad in range(1, MOST_BAD):
            try:
                return self.pack.read(int(others[(place + bad) % len(others)])), bad
            except BadRecord as error:
                last = error
        raise HearMwmaeError(f"{self.pack.url}: {MOST_BAD} clips in a row cannot be read; the last one: {last}")


def played_length(samples: int, speed: Fraction) -> int:
    """Samples that so many become when played at ``speed``."""
    return -(-samples * speed.denominator // speed.numerator)


def play(pcm: np.ndarray, speed: Fraction) -> np.ndarray:
    """(samples,) int16 as a tape at ``speed`` would sound, lower and longer below 1: (played_length(samples, speed),) int16."""
    if speed == 1:
        return pcm
    played = resample_poly(pcm.astype(np.float32), speed.denominator, speed.numerator)
    return np.clip(np.round(played), -32768, 32767).astype(np.int16)


def read_batches(batches: CropBatches, first: int, last: int, workers: int, pin_memory: bool = False) -> Iterator[RawBatch]:
    """The batches of steps first..last-1 in their order, read ahead by ``workers`` processes; 0 reads them as they are asked for.

    Raises HearMwmaeError when a batch cannot be read, or a worker is killed.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # or it would draw from torch's own, for workers that draw nothing
    )
    ahead = iter(loader)
    for _ in range(first, last):
        with worker_errors():
            batch = next(ahead)
        yield batch.checked()


def _ignore_signals(worker: int) -> None:
    """What stops a run is often sent to all its processes: the first one saves, and its readers have to live until it has."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def worker_errors() -> Iterator[None]:
    """Turns the RuntimeError by which torch says, at any moment, that a reading process was killed, into a HearMwmaeError."""
    try:
        yield
    except RuntimeError as error:
        if not re.match(r"DataLoader worker \(pid", str(error)):
            raise  # also what went wrong in a worker, and comes out of it with the worker's traceback
        raise HearMwmaeError(f"a process that reads audio has ended (out of memory?): {str(error).splitlines()[0]}") from error


def log_mel_crops(frontend: LogMelFrontend, batch: RawBatch, crop_frames: int) -> Tensor:
    """(B, crop_frames, n_mels) float32 on the device of ``frontend``: each clip's log-mel, normalised as a whole, then cropped.

    A clip shorter than a crop is extended by repeated reflection, exactly as at inference. Where a clip was replaced by a shorter
    one, its crop begins as late as it can.
    """
    audio = batch.audio.to(frontend.window.device, non_blocking=True).float() / 32768
    clips = audio.split(batch.lengths)
    crops: list[Tensor | None] = [None] * len(clips)
    for length in sorted(set(batch.lengths)):  # those of one length, ten seconds mostly, in one go
        members = [position for position, other in enumerate(batch.lengths) if other == length]
        features = normalise(frontend.log_mel(torch.stack([clips[position] for position in members])), unbiased=False)
        for position, frames in zip(members, features, strict=True):
            start = min(batch.starts[position], max(len(frames) - crop_frames, 0))
            piece = frames[start : start + crop_frames]
            crops[position] = piece[reflect_index(len(piece), 0, crop_frames, piece.device)]
    return torch.stack(crops)


class ByKind:
    """(step, generator) -> clips of its batch, drawn with replacement: the recipe's share of each kind.

    Within a kind, clips are drawn in proportion to the square root of their length: a ten-second clip offers more crops than a
    drum hit, but not fifty times as much to learn.
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
        self.cumulative, self.batch_size = cumulative / cumulative[-1], recipe.batch_size  # ends at 1, whatever the rounding

    def __call__(self, step: int, rng: np.random.Generator) -> np.ndarray:
        return np.searchsorted(self.cumulative, rng.random(self.batch_size), side="right")


class ByEpoch:
    """(step, generator) -> clips of its batch: every clip once per epoch, in an order of its own; a batch may span epochs."""

    def __init__(self, count: int, recipe: Recipe) -> None:
        self.count, self.seed, self.batch_size = count, recipe.seed, recipe.batch_size

    def __call__(self, step: int, rng: np.random.Generator) -> np.ndarray:
        epochs, places = np.divmod(np.arange(step * self.batch_size, (step + 1) * self.batch_size), self.count)
        orders = {epoch: _epoch_order(self.seed, epoch, self.count) for epoch in set(epochs.tolist())}
        return np.array([orders[epoch][place] for epoch, place in zip(epochs.tolist(), places, strict=True)])


@lru_cache(maxsize=2)  # a batch is of one epoch, mostly, as are those after it
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    # A word of its own in the seed: not the generator of any step.
    return np.random.default_rng([seed, epoch, 1]).permutation(count)
