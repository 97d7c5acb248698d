"""The output of one encoder block, behind HEAR's model interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..config import parse_pooling
from ..embedder import Embedder
from ..errors import HearMwmaeError
from ..pooling import ChunkStatistics

if TYPE_CHECKING:
    from .linear_probe import Embeds


class BlockOutput:
    """The output of one block of ``model`` in place of its embeddings, of the same sizes, without
    the last layer norm.

    Raises HearMwmaeError when the model has no such block.

    Args:
        block: from 0, or from -1 backwards.
    """

    def __init__(self, model: Embeds, block: int) -> None:
        depth = model.config.encoder.depth if isinstance(model, Embedder) else 0
        if not isinstance(model, Embedder) or not -depth <= block < depth:
            raise HearMwmaeError(
                f"the model has {depth} encoder blocks and no block {block}: blocks count from 0, or from -1 backwards"
            )
        self.model, self.block, self.sample_rate = model, block, model.sample_rate

    def scene_embeddings(self, audio: Tensor) -> Tensor:
        """(B, samples) -> (B, scene_embedding_size of the model), pooled as its scenes."""
        (features,) = self.model.layers(audio, [self.block])
        statistics = ChunkStatistics(parse_pooling(self.model.config.pooling))
        statistics.add(features, torch.full((len(features),), features.shape[1], device=features.device))
        return statistics.pool([1] * len(features))

    def timestamp_embeddings(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(B, samples) -> (B, T, timestamp_embedding_size), and the model's own (B, T)
        milliseconds.
        """
        (features,) = self.model.layers(audio, [self.block])
        times = self.model.timestamp_embeddings(audio)[1]
        return features[:, : times.shape[1]], times
