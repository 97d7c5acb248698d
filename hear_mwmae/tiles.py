"""MW-MHA on a CPU: heads of small windows share tiles, and nothing outside the tiles is computed.

The result is that of `attention.MultiWindowAttention`, the reference, to rounding. A training step
of the tiny model takes 0.73 to 0.8 of its time (research/benchmarks/attention.py).
"""

from functools import lru_cache

import torch
from torch import Tensor

from .attention import MultiWindowAttention, attend

#: Windows up to this size share a tile; above it the wasted arithmetic would cost more than is
#: saved.
MAX_TILE = 64


class TiledMultiWindowAttention(MultiWindowAttention):
    """`MultiWindowAttention`, faster on a CPU.

    A tile is the largest window of the model, up to ``MAX_TILE`` tokens, that a head's window
    divides. So heads of 2, 5, 10, 25 and 50 tokens become one batched product over tiles of 50.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or self.shift:
            return super().forward(x)
        batch, length, _ = x.shape
        groups = group_heads(length, self.window_sizes)
        order = [head for _, heads in groups for head in heads]
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))
        if order != sorted(order):
            qkv = qkv[:, :, :, order]
        outputs = []
        # One split, because its gradient is written once: with slices, each gradient would be a
        # tensor of zeros of full size, added to the others.
        parts = qkv.split([len(heads) for _, heads in groups], dim=3)
        for (tile, heads), part in zip(groups, parts, strict=True):
            q, k, v = (
                part.unflatten(1, (-1, tile)).permute(3, 0, 1, 4, 2, 5).flatten(1, 2)
            )  # tiles become clips
            windowed = self.window_sizes[heads[0]] > 0
            y = attend(q, k, v, self.bias(tile, q, heads) if windowed else None)
            outputs.append(y.transpose(1, 2).reshape(batch, length, len(heads), -1))
        y = torch.cat(outputs, dim=2)
        if order != sorted(order):
            y = y[:, :, torch.tensor(order, device=x.device).argsort()]
        return self.proj(y.flatten(2))


@lru_cache(maxsize=64)
def group_heads(length: int, window_sizes: tuple[int, ...]) -> list[tuple[int, list[int]]]:
    """(tile, heads that share it), ordered by the first head; global heads have one tile, the
    sequence.
    """
    groups: dict[int, list[int]] = {}
    # Largest first, so that a tile exists before the windows that fit into it.
    for head in sorted(range(len(window_sizes)), key=lambda head: -window_sizes[head]):
        w = window_sizes[head]
        hosts = [tile for tile in groups if w and tile <= MAX_TILE and tile % w == 0]
        groups.setdefault(hosts[0] if hosts else w, []).append(head)
    found = [(tile or length, sorted(heads)) for tile, heads in groups.items()]
    return sorted(found, key=lambda group: group[1])
