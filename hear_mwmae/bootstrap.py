"""Bootstrap intervals over clips."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: Percentiles that enclose 95 %.
INTERVAL = (2.5, 97.5)


class Estimate(NamedTuple):
    """A value of all clips, and a 95 % interval of bootstrap draws of the clips.

    The interval has the percentiles of the draws, shifted so that the mean of the draws is the
    value. A draw repeats clips, and repeated samples increase some measures (the similarity of
    unrelated heads, for one). This bias belongs to the draws, not to the value.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: np.ndarray) -> Estimate:
        low, high = np.percentile(draws, INTERVAL) - draws.mean() + value
        return cls(float(value), float(low), float(high))


def bootstrap_counts(clips: int, draws: int, seed: int | np.random.SeedSequence) -> np.ndarray:
    """(draws, clips) int64: how often each clip is in a bootstrap sample of as many clips."""
    return np.random.default_rng(seed).multinomial(clips, np.full(clips, 1 / clips), draws)
