"""Pooling over time: the time steps of a clip -> one scene embedding.

Exact over chunks, in one pass, in bounded memory.
"""

from __future__ import annotations

import torch
from torch import Tensor


class ChunkStatistics:
    """Statistics of each chunk, a few numbers per dimension, until all chunks of a clip are pooled.

    Args:
        names: statistics, from `config.parse_pooling`.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._pieces: list[dict[str, Tensor]] = []

    def add(self, features: Tensor, valid: Tensor) -> None:
        """Add chunks.

        Args:
            features: (chunks, time steps, D).
            valid: (chunks,) int64, at least 1: the number of leading time steps of audio. The
                others are padding.
        """
        mask = (torch.arange(features.shape[1], device=features.device) < valid[:, None])[:, :, None]
        sums = (features * mask).sum(dim=1)
        piece = {"valid": valid, "sum": sums}
        if "std" in self.names:
            deviations = (features - (sums / valid[:, None])[:, None]) * mask
            piece["squares"] = deviations.square().sum(dim=1)
        if "max" in self.names:
            piece["max"] = features.masked_fill(~mask, -torch.inf).amax(dim=1)
        self._pieces.append(piece)

    def pool(self, counts: list[int]) -> Tensor:
        """(clips, D * statistics): for each clip its statistics side by side.

        Args:
            counts: chunks of each clip, in the order of `add`.
        """
        joined = {name: torch.cat([piece[name] for piece in self._pieces]) for name in self._pieces[0]}
        if len(set(counts)) == 1:  # one operation for all of a batch
            return self._pool({name: value.unflatten(0, (len(counts), counts[0])) for name, value in joined.items()})
        clips = zip(*(value.split(counts) for value in joined.values()), strict=True)
        return torch.cat([self._pool({k: v[None] for k, v in zip(joined, clip, strict=True)}) for clip in clips])

    def _pool(self, chunks: dict[str, Tensor]) -> Tensor:
        """Statistics (clips, chunks, D) of chunks -> (clips, D * statistics)."""
        valid = chunks["valid"][:, :, None]
        steps = valid.sum(dim=1)
        mean = chunks["sum"].sum(dim=1) / steps
        pooled = {"mean": mean}
        if "std" in self.names:
            # Squares around each chunk's own mean, plus the spread of these means: no cancellation
            # for any length.
            between = valid * (chunks["sum"] / valid - mean[:, None]).square()
            variance = (chunks["squares"] + between).sum(dim=1) / steps
            # The root's gradient at 0, where nothing changes over time, would be infinite.
            moves = variance > 0
            pooled["std"] = torch.where(moves, variance, 1).sqrt() * moves
        if "max" in self.names:
            pooled["max"] = chunks["max"].amax(dim=1)
        return torch.cat([pooled[name] for name in self.names], dim=1)
