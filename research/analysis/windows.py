"""Whether heads of equal windows are more similar across blocks than heads of unequal ones."""

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
