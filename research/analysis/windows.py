"""Whether heads of equal windows are more similar across blocks than heads of unequal ones."""

from __future__ import annotations

import numpy as np


def across_blocks(similarity: np.ndarray, heads: int) -> np.ndarray:
    """Similarities of all heads (blocks * heads, blocks * heads), block by block -> (pairs of
    blocks, heads, heads).
    """
    blocks = len(similarity) // heads
    by_block = similarity.reshape(blocks, heads, blocks, heads)
    first, second = np.triu_indices(blocks, 1)
    return by_block[first, :, second]


def window_means(pairs: np.ndarray, windows: tuple[int, ...]) -> tuple[float, float]:
    """Mean similarity of heads of equal and of unequal windows; ``pairs`` as of `across_blocks`."""
    equal = np.equal.outer(windows, windows)
    return float(pairs[:, equal].mean()), float(pairs[:, ~equal].mean())


def permutation_p(pairs: np.ndarray, windows: tuple[int, ...], deals: int, seed: int) -> float:
    """One-sided p of the null hypothesis that the similarity of heads does not depend on windows.

    The windows are dealt anew among the heads of every block but the first. p is the share of the
    (1 + deals) cases, the true one included, whose sum over equal windows is at least the true one.
    """
    blocks = int(1 + np.sqrt(1 + 8 * len(pairs))) // 2
    labels = np.broadcast_to(windows, (deals, blocks, len(windows)))
    dealt = np.random.default_rng(seed).permuted(labels[:, 1:], axis=2)
    labels = np.concatenate([labels[:, :1], dealt], axis=1)
    sums = np.zeros(deals)
    for pair, first, second in zip(pairs, *np.triu_indices(blocks, 1), strict=True):
        equal = labels[:, first, :, None] == labels[:, second, None, :]
        sums += (equal * pair).sum(axis=(1, 2))
    true = pairs[:, np.equal.outer(windows, windows)].sum()
    # The slack is for sums of the same numbers in another order.
    return float((1 + np.count_nonzero(sums >= true - 1e-9)) / (1 + deals))
