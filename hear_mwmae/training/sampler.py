"""Which crops a batch holds: a pure function of seed and step.

So a run resumes at any step without a saved position, and a batch is the same for any number of
processes and workers.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..errors import HearMwmaeError
from .dataset import SAMPLE_RATE, AudioDataset
from .recipe import Recipe


class Crop(NamedTuple):
    """One crop of a batch."""

    clip: int  #: its row in the data set
    start: int  #: first frame


class StepSampler:
    """``sampler[step]`` are the crops of process ``rank`` of ``world``: every world-th of a batch.

    With the recipe's ``kinds``, clips are drawn with replacement, each kind with its share and its
    clips in proportion to the square root of their length: ten seconds offer more crops than a
    drum hit, but not fifty times as much to learn. Otherwise every clip comes once per epoch, and a
    batch may span epochs. Data of one kind need no shares, so there the recipe's do nothing.

    Raises HearMwmaeError when the data lack a kind of the recipe, or have another sample rate.
    """

    def __init__(
        self, dataset: AudioDataset, recipe: Recipe, rank: int = 0, world: int = 1
    ) -> None:
        config = recipe.model_config()
        if config.frontend.sample_rate != SAMPLE_RATE:
            raise HearMwmaeError(
                f"the model hears {config.frontend.sample_rate} Hz, "
                f"the audio in {dataset.source} has {SAMPLE_RATE} Hz"
            )
        self.recipe = recipe
        self.frontend = config.frontend
        self.crop_frames = config.input_frames
        self.samples = dataset.samples
        self.share = slice(rank, None, world)
        self.clips = _used_clips(len(dataset), recipe)
        self.by_kind = bool(recipe.kinds) and len(dataset.kinds) > 1
        if self.by_kind:
            self.cumulative = np.cumsum(_kind_weights(dataset, self.clips, recipe.kinds))
            self.cumulative /= self.cumulative[-1]  # ends at 1 in spite of rounding

    def __getitem__(self, step: int) -> list[Crop]:
        rng = np.random.default_rng([self.recipe.seed, step])
        size = self.recipe.batch_size
        if self.by_kind:
            places = np.searchsorted(self.cumulative, rng.random(size), side="right")
        else:
            numbers = range(step * size, (step + 1) * size)
            places = np.array([self._epoch_place(number) for number in numbers])
        clips = self.clips[places].tolist()
        # All of the batch is drawn, so that a share does not depend on how many there are.
        crops = [Crop(clip, self._start(clip, rng)) for clip in clips]
        return crops[self.share]

    def _epoch_place(self, number: int) -> int:
        """Place in ``clips`` of crop ``number`` of the run."""
        epoch, offset = divmod(number, len(self.clips))
        return _epoch_order(self.recipe.seed, epoch, len(self.clips))[offset]

    def _start(self, clip: int, rng: np.random.Generator) -> int:
        frames = self.frontend.frames(int(self.samples[clip]))
        return int(rng.integers(0, max(frames - self.crop_frames, 0) + 1))


def _used_clips(count: int, recipe: Recipe) -> np.ndarray:
    """The rows that the recipe's data_fraction leaves, in their order."""
    if recipe.data_fraction == 1:
        return np.arange(count)
    # The last word of the seed differs from the seeds of steps and epochs.
    order = np.random.default_rng([recipe.seed, 0, 2]).permutation(count)
    return np.sort(order[: max(1, round(recipe.data_fraction * count))])


def _kind_weights(dataset: AudioDataset, clips: np.ndarray, kinds: dict[str, float]) -> np.ndarray:
    """(clips,) chance of each clip to be drawn."""
    roots = np.sqrt(dataset.samples[clips])
    weights = np.zeros(len(clips))
    for kind, share in kinds.items():
        chosen = np.zeros(len(clips), bool)
        if kind in dataset.kinds:
            chosen = dataset.kind_of[clips] == dataset.kinds.index(kind)
        if not chosen.any():
            raise HearMwmaeError(
                f"the data have no clips of kind {kind!r}, but {sorted(dataset.kinds)}: give "
                "shares of these, or --set 'kinds={}', by which every clip comes once per epoch"
            )
        weights[chosen] = share * roots[chosen] / roots[chosen].sum()
    return weights


@lru_cache(maxsize=2)  # a batch is of one epoch, mostly, as are those after it
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, 1]).permutation(count)
