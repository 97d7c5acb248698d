"""A model that ends at an earlier encoder block."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch import nn

from ..embedder import Embedder
from ..errors import HearMwmaeError

if TYPE_CHECKING:
    from .linear_probe import Embeds


def end_at_block(model: Embeds, block: int) -> Embedder:
    """``model``, with the output of one of its blocks in place of the embeddings, of the same
    sizes, without the last layer norm. It shares the weights.

    Raises HearMwmaeError when the model has no such block.

    Args:
        block: from 0, or from -1 backwards.
    """
    depth = model.config.encoder.depth if isinstance(model, Embedder) else 0
    if not isinstance(model, Embedder) or not -depth <= block < depth:
        raise HearMwmaeError(
            f"the model has {depth} encoder blocks and no block {block}: blocks count from 0, or from -1 backwards"
        )
    shorter = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    shorter.encoder.blocks = shorter.encoder.blocks[: range(depth)[block] + 1]
    shorter.encoder.norm = nn.Identity()  # type: ignore[assignment]
    return shorter
