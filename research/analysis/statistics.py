"""Attention distance and attention entropy of heads.

For a query q with attention weights a(q, k) over the keys k that a head can see, sum_k a(q, k) = 1:

* distance: mean over q of sum_k a(q, k) d(q, k), with d the distance of the two patches. In pixels
  it is the "mean attention distance" of Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR
  2021), and of Raghu et al., "Do Vision Transformers See Like Convolutional Neural Networks?"
  (NeurIPS 2021). A spectrogram has two axes of different units, so d is given three times: in
  patches (Euclidean on the grid of time steps and bands), in milliseconds, and in mel bands.
* entropy: mean over q of -sum_k a(q, k) ln a(q, k), in nats, as in Xie et al., "Revealing the Dark
  Secrets of Masked Image Modeling" (CVPR 2023); and divided by its largest value, the logarithm of
  the number of keys that q can see.

The CLS token of a plain MAE has no place on the grid. It is left out as a query and as a key, and
the weights on the patches are scaled to sum to 1, so that both kinds of models are measured over
the same patches. ``cls`` is its share.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..config import ModelConfig
from .maps import CLS, BlockTrace, visible_keys

#: Measures of every head; columns of the tables.
MEASURES = (
    "distance",  # patches
    "distance_ms",
    "distance_bands",
    "distance_uniform",  # patches, had the head attended equally to all it can see
    "distance_most",  # patches, had every query attended to the farthest patch it can see
    "entropy",  # nats
    "entropy_normalised",
    "cls",
)


class PatchDistances(NamedTuple):
    """Distances between all pairs of patches of a model's grid, each (tokens, tokens) float32."""

    patches: Tensor
    milliseconds: Tensor
    bands: Tensor


def patch_distances(config: ModelConfig, device: torch.device | None = None) -> PatchDistances:
    """Between the centres of the patches, in time-major order as everywhere."""
    steps, bands = torch.meshgrid(*(torch.arange(n, dtype=torch.float32, device=device) for n in config.grid_size), indexing="ij")
    time = (steps.flatten()[:, None] - steps.flatten()).abs()
    frequency = (bands.flatten()[:, None] - bands.flatten()).abs()
    step_ms = 1000 * config.patch_size[0] * config.frontend.hop_length / config.frontend.sample_rate
    return PatchDistances(torch.hypot(time, frequency), time * step_ms, frequency * config.patch_size[1])


def block_statistics(block: BlockTrace, distances: PatchDistances) -> dict[str, Tensor]:
    """Every one of MEASURES for every clip and head of one block: name -> (B, heads) float32."""
    return head_statistics(
        block.maps(),
        block.positions,
        visible_keys(block.attention, block.inputs.shape[1], block.inputs.device),
        PatchDistances(*(kind.to(block.inputs.device) for kind in distances)),
    )


def head_statistics(maps: Tensor, positions: Tensor, visible: Tensor, distances: PatchDistances) -> dict[str, Tensor]:
    """Every one of MEASURES, name -> (B, heads) float32.

    Args:
        maps: (B, heads, sequence, sequence) attention weights, queries in rows.
        positions: (B, sequence) int64 numbers of the tokens on the grid; CLS for a CLS token at the
            beginning.
        visible: (heads, sequence, sequence) bool, the keys that each query can see.
        distances: of the grid, on the same device.
    """
    cls = int(positions[0, 0] == CLS)
    share = maps[:, :, cls:, 0].mean(dim=-1) if cls else maps.new_zeros(maps.shape[:2])
    maps, visible, positions = maps[:, :, cls:, cls:], visible[:, cls:, cls:], positions[:, cls:]
    if cls:
        maps = maps / maps.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    if (positions == positions[:1]).all():  # nothing is masked: what follows is the same for all clips
        positions = positions[:1]
    # (B or 1, queries, keys)
    patches, *others = (kind[positions[:, :, None], positions[:, None, :]] for kind in distances)
    # Over the keys first: a float32 sum of all pairs would lose digits.
    weighted = torch.einsum("bhqk,bqkc->bhqc", maps, torch.stack([patches, *others], dim=-1)).mean(dim=2).unbind(dim=-1)
    keys = visible.sum(dim=-1)  # (heads, queries)
    uniform = torch.einsum("hqk,bqk->bhq", visible / keys[:, :, None], patches).mean(dim=-1)
    most = torch.stack([(patches * seen).amax(dim=-1).mean(dim=-1) for seen in visible], dim=1)
    uniform, most = uniform.expand(len(maps), -1), most.expand(len(maps), -1)
    entropy = torch.special.entr(maps).sum(dim=-1)  # (B, heads, queries)
    largest = keys.log()
    normalised = torch.where(largest > 0, entropy / largest.clamp(min=1e-6), 0.0)  # one key leaves nothing to spread over
    values = (*weighted, uniform, most, entropy.mean(dim=-1), normalised.mean(dim=-1), share)
    return dict(zip(MEASURES, values, strict=True))
