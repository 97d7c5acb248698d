"""Attention distance and attention entropy of heads.

For a query q with attention weights a(q, k) over the keys k that a head can see, sum_k a(q, k) = 1:

* distance: mean over q of sum_k a(q, k) d(q, k), with d the distance of the two patches on the grid
  of time steps and bands, in patches. This is the "mean attention distance" of Dosovitskiy et al.,
  "An Image is Worth 16x16 Words" (ICLR 2021), and of Raghu et al., "Do Vision Transformers See Like
  Convolutional Neural Networks?" (NeurIPS 2021).
* entropy: mean over q of -sum_k a(q, k) ln a(q, k), as in Xie et al., "Revealing the Dark Secrets
  of Masked Image Modeling" (CVPR 2023), divided by its largest value, the logarithm of the number
  of keys that q can see.

The CLS token of a plain MAE has no place on the grid. It is left out as a query and as a key, and
the weights on the patches are scaled to sum to 1, so that both kinds of models are measured over
the same patches.
"""

import torch
from torch import Tensor

from hear_mwmae.config import ModelConfig

from .maps import CLS

MEASURES = (
    "distance",  # patches
    "distance_uniform",  # patches, had the head attended equally to all that it can see
    "entropy",  # of its largest value
)


def patch_distances(config: ModelConfig) -> Tensor:
    """(tokens, tokens) float32: Euclidean, between the patches of a model's grid."""
    steps, bands = (torch.arange(float(n)) for n in config.grid_size)
    grid = torch.cartesian_prod(steps, bands)
    return (grid[:, None] - grid).norm(dim=-1)


def head_statistics(
    maps: Tensor, positions: Tensor, visible: Tensor, distances: Tensor
) -> dict[str, Tensor]:
    """Every one of MEASURES, name -> (B, heads) float32; arguments as in `BlockTrace`."""
    if positions[0, 0] == CLS:
        positions = positions[:, 1:]
        visible = visible[:, 1:, 1:]
        maps = maps[:, :, 1:, 1:]
        maps = maps / maps.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    far = distances[positions[:, :, None], positions[:, None, :]]  # (B, queries, keys)
    keys = visible.sum(dim=-1)  # (heads, queries)
    # Over the keys first: a float32 sum of all pairs would lose digits.
    distance = torch.einsum("bhqk,bqk->bhq", maps, far).mean(dim=-1)
    uniform = torch.einsum("hqk,bqk->bhq", visible / keys[:, :, None], far).mean(dim=-1)
    entropy = torch.special.entr(maps).sum(dim=-1) / keys.log().clamp(min=1e-6)
    return dict(zip(MEASURES, (distance, uniform, entropy.mean(dim=-1)), strict=True))
