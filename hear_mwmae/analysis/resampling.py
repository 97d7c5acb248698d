"""Bootstrap intervals over clips, and a permutation test of the effect of windows on similarity."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: Percentiles that enclose 95 %.
INTERVAL = (2.5, 97.5)


class Estimate(NamedTuple):
    """A value of all clips, and a 95 % interval of bootstrap draws of the clips.

    The interval has the percentiles of the draws, shifted so that the mean of the draws is the
    value. A draw repeats clips, and repeated samples increase the similarity of unrelated heads.
    This bias belongs to the draws, not to the value.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: np.ndarray) -> Estimate:
        return cls(float(value), *(float(bound) for bound in np.percentile(draws, INTERVAL) - draws.mean() + value))


class WindowEffect(NamedTuple):
    """Similarity of heads in different blocks whose windows are equal, against those whose windows
    are not.
    """

    equal: float  #: mean similarity
    unequal: float
    superiority: float  #: chance that a pair of equal windows is more similar than one of unequal windows; ties count half
    p: float  #: one-sided, of the permutation test

    @property
    def difference(self) -> float:
        return self.equal - self.unequal


def bootstrap_counts(clips: int, draws: int, seed: int | np.random.SeedSequence) -> np.ndarray:
    """(draws, clips) int64: how often each clip is in a bootstrap sample of as many clips."""
    return np.random.default_rng(seed).multinomial(clips, np.full(clips, 1 / clips), draws)


def window_difference(similarity: np.ndarray, windows: tuple[int, ...]) -> float:
    """Mean of equal windows minus mean of unequal ones; see `window_effect`."""
    equal = np.broadcast_to(np.equal.outer(windows, windows), similarity.shape)
    return float(similarity[equal].mean() - similarity[~equal].mean())


def window_effect(similarity: dict[tuple[int, int], np.ndarray], windows: tuple[int, ...], draws: int, seed: int) -> WindowEffect:
    """Whether heads of equal windows are more similar across blocks than heads of unequal ones.

    Null hypothesis: the similarity of heads does not depend on their windows. The windows are
    permuted among the heads of every block except the first. The p-value is the share of the (1 +
    draws) permutations, the true one included, whose mean similarity of equal windows is at least
    as large as the true one.

    Args:
        similarity: for every pair of blocks (a, b), a < b: (heads of a, heads of b).
        windows: of the heads, the same in every block.
    """
    rng = np.random.default_rng(seed)
    blocks = 1 + max(b for _, b in similarity)
    labels = np.broadcast_to(windows, (draws, blocks, len(windows)))
    labels = np.concatenate([labels[:, :1], rng.permuted(labels[:, 1:], axis=2)], axis=1)
    dealt = sum(
        np.einsum("nij,ij->n", np.equal(labels[:, a, :, None], labels[:, b, None, :]), values)
        for (a, b), values in similarity.items()
    )
    values = np.stack(list(similarity.values()))
    same = np.broadcast_to(np.equal.outer(windows, windows), values.shape)
    equal, unequal = values[same], values[~same]
    # The slack is for sums of the same numbers in another order.
    p = (1 + np.count_nonzero(dealt >= equal.sum() - 1e-9)) / (1 + draws)
    order = np.subtract.outer(equal, unequal)
    superiority = np.mean(order > 0) + np.mean(order == 0) / 2
    return WindowEffect(float(equal.mean()), float(unequal.mean()), float(superiority), float(p))


#: How the heads of a model spread, from their means over clips (..., blocks, heads).
SPREADS = {
    "mean": lambda heads: heads.mean(axis=(-2, -1)),
    "SD over all heads": lambda heads: heads.std(axis=(-2, -1)),
    "mean SD within blocks": lambda heads: heads.std(axis=-1).mean(axis=-1),
    "range": lambda heads: heads.max(axis=(-2, -1)) - heads.min(axis=(-2, -1)),
}


def spread(values: np.ndarray, counts: np.ndarray) -> dict[str, tuple[float, np.ndarray]]:
    """Every one of SPREADS for all clips and for each bootstrap draw, (draws,).

    Args:
        values: (clips, blocks, heads).
        counts: (draws, clips), of `bootstrap_counts`.
    """
    drawn = np.tensordot(counts / counts.sum(axis=1, keepdims=True), values, axes=1)
    return {name: (float(of(values.mean(axis=0))), of(drawn)) for name, of in SPREADS.items()}
