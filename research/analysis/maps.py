"""Attention maps and head outputs of every block, in batches of bounded memory.

The model runs unchanged; hooks keep the input of every attention module. Maps and outputs are
computed from it here, densely and in float32.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hear_mwmae.attention import SelfAttention, split_heads
from hear_mwmae.config import ModelConfig
from hear_mwmae.mae import MaskedAutoencoder

#: In the place of a token's number on the grid: the CLS token, which lies nowhere on it.
CLS = -1
#: Clips at a time. A block's maps take BATCH * heads * sequence^2 * 4 bytes.
BATCH = 8


class BlockTrace(NamedTuple):
    """The attention of one block during one batch."""

    block: int  #: from 0
    first: int  #: number of the first clip of the batch
    maps: Tensor  #: (B, heads, sequence, sequence) float32: row q has the weights of query q
    outputs: Tensor  #: (B, sequence, heads, head width) float32, before the output projection
    visible: Tensor  #: (heads, sequence, sequence) bool: the keys that each query can see
    positions: Tensor  #: (B, sequence) int64: number of each token on the patch grid, or CLS


def head_windows(config: ModelConfig, part: str) -> tuple[int, ...]:
    """Window size of every head of the "encoder" or "decoder" in tokens; 0 for global heads."""
    settings = getattr(config, part)
    return settings.window_sizes or (0,) * settings.heads


@torch.no_grad()
def trace(
    model: MaskedAutoencoder, part: str, spectrograms: Tensor, noise: Tensor | None = None
) -> Iterator[BlockTrace]:
    """Every block of the "encoder" or the "decoder", batch by batch.

    Args:
        spectrograms: (clips, frames, bands) float32, normalised inputs of the model.
        noise: (clips, tokens) masks as in pretraining: the encoder sees the tokens of smallest
            noise, the decoder these and mask tokens. Without noise nothing is masked, and only the
            encoder runs, as for embeddings.
    """
    config = model.config
    attentions = [block.attn for block in getattr(model, part).blocks]
    device = model.encoder.pos_embed.device
    inputs: list[Tensor] = []
    handles = [
        attention.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        for attention in attentions
    ]
    try:
        for first in range(0, len(spectrograms), BATCH):
            clips = spectrograms[first : first + BATCH].to(device)
            positions = torch.arange(config.num_tokens, device=device).expand(len(clips), -1)
            inputs.clear()
            if noise is None:
                model.encoder(clips)
            else:
                out = model(clips, noise[first : first + BATCH].to(device))
                if part == "encoder":
                    positions = out.ids_restore.argsort(dim=1)[:, : config.num_kept]
            if config.encoder.cls_token:
                cls = positions.new_full((len(clips), 1), CLS)
                positions = torch.cat([cls, positions], dim=1)
            for number, (attention, x) in enumerate(zip(attentions, inputs, strict=True)):
                yield BlockTrace(number, first, *attend(attention, x), positions)
    finally:
        for handle in handles:
            handle.remove()


def attend(attention: SelfAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, sequence, width) -> maps, outputs and visible keys, as in `BlockTrace`."""
    maps = attention.attention_weights(x)
    _, _, values = split_heads(attention.qkv(x).float(), attention.heads)
    bias = attention.bias(x.shape[1], values)
    visible = torch.ones_like(maps[0], dtype=torch.bool) if bias is None else bias.isfinite()
    return maps, (maps @ values).transpose(1, 2), visible
