"""Self-attention, and the paper's multi-window multi-head attention (MW-MHA).

In MW-MHA every head has its own window size. A windowed head cuts the sequence into non-overlapping
windows, attends inside each and adds a learned bias for every relative position; a head of window
size 0 attends globally, without a bias.

Heads are not computed one by one. They share a *tile*: the largest window of the model, up to
``MAX_TILE`` tokens, that their window divides. Scores outside their own windows are masked. So
heads of 2, 5, 10, 25 and 50 tokens become one batched product over tiles of 50, which is faster
than five small products.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import HearMwmaeError
from .linear import Linear

#: Windows up to this size may be merged into one tile; above it the wasted arithmetic would cost
#: more than it saves.
MAX_TILE = 64


class SelfAttention(nn.Module):
    """Global multi-head self-attention, (B, tokens, width) -> (B, tokens, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise HearMwmaeError(f"width {width} is not divisible by {heads} heads")
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = attend(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(batch, length, width))

    @torch.no_grad()
    def attention_weights(self, x: Tensor) -> list[Tensor]:
        """What each head attends to, for analysis: a (B, tokens, tokens) float32 tensor per head,
        rows sum to 1.
        """
        batch, length, _ = x.shape
        q, k, _ = self.qkv(x).float().view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return list(weights.unbind(1))


class MultiWindowAttention(nn.Module):
    """MW-MHA, (B, tokens, width) -> (B, tokens, width).

    Args:
        window_sizes: one per head; 0 = global. Each must divide the number of tokens.
        shift: move the windows of every windowed head by half their size. Positions that wrap
            around the end of the sequence do not attend to positions at its start.
    """

    def __init__(self, width: int, window_sizes: tuple[int, ...], shift: bool = False) -> None:
        super().__init__()
        heads = len(window_sizes)
        if not heads or width % heads:
            raise HearMwmaeError(f"width {width} is not divisible by {heads} heads (window sizes {list(window_sizes)})")
        if min(window_sizes) < 0:
            raise HearMwmaeError(f"window sizes must be 0 (global) or above, got {list(window_sizes)}")
        self.window_sizes = tuple(window_sizes)
        self.shift = shift
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        self.relative_position_bias_table = nn.ParameterDict(
            {str(head): nn.Parameter(torch.empty(2 * w - 1)) for head, w in enumerate(window_sizes) if w}
        )
        for table in self.relative_position_bias_table.values():
            if not table.is_meta:
                nn.init.trunc_normal_(table, std=(0.02 / len(table)) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        groups = self.plan(length, x.device)
        qkv = self.qkv(x).view(batch, length, 3, len(self.window_sizes), -1)
        parts = zip(groups, _split(qkv, groups), strict=True)
        y = torch.cat([self._attend_in_tiles(group, chosen) for group, chosen in parts], dim=2)
        order = [head for group in groups for head in group.head_list]
        if order != sorted(order):
            y = y[:, :, torch.tensor(order, device=x.device).argsort()]
        return self.proj(y.flatten(2))

    def _attend_in_tiles(self, group: Group, qkv: Tensor) -> Tensor:
        """The heads of one group, (B, tokens, 3, heads, d) -> (B, tokens, heads, d).

        The fused kernels of `attend` take four dimensions, so that tiles are joined with another
        one.
        """
        batch, length, _, heads, d = qkv.shape
        if group.order is not None:
            qkv = _take(qkv, group.order)
        q, k, v = qkv.unflatten(1, (-1, group.tile)).permute(3, 0, 1, 4, 2, 5)  # (B, tiles, heads, tile, d)
        bias = self.bias(group, q.dtype)
        if group.order is None:  # tiles become clips, because all take the same bias
            y = attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), bias)
            return y.transpose(1, 2).reshape(batch, length, heads, d)
        assert bias is not None  # only windowed heads are shifted
        y = attend(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), bias.flatten(0, 1))  # tiles become heads
        y = y.unflatten(1, (-1, heads)).transpose(2, 3).reshape(batch, length, heads, d)
        return _put_back(y, group.order)

    def plan(self, length: int, device: torch.device) -> list[Group]:
        """How the heads are grouped for a sequence of ``length`` tokens."""
        return plan_groups(length, self.window_sizes, self.shift, str(device))

    def bias(self, group: Group, dtype: torch.dtype) -> Tensor | None:
        """Learned bias inside the windows and -inf outside, (1 or tiles, heads, tile, tile); None
        for global heads.
        """
        if group.bias_index is None:
            return None
        tables = [self.relative_position_bias_table[str(head)] for head in group.head_list]
        outside = tables[0].new_full((1,), float("-inf"))
        return torch.cat([*tables, outside])[group.bias_index].to(dtype)

    @torch.no_grad()
    def attention_weights(self, x: Tensor) -> list[Tensor]:
        """What each head attends to, for analysis and the parity tests; computed head by head in
        float32.

        Returns one tensor per head: (B * windows, w, w) for a windowed head, windows of one clip in
        a row and in the order of the (shifted) sequence; (B, tokens, tokens) for a global one. Rows
        sum to 1.
        """
        batch, length, _ = x.shape
        qkv = self.qkv(x).float().view(batch, length, 3, len(self.window_sizes), -1)
        weights = []
        for head, w in enumerate(self.window_sizes):
            (group,) = plan_groups(length, (w,), self.shift, str(x.device))
            order = torch.arange(length, device=x.device) if group.order is None else group.order[:, 0]
            q, k, _ = qkv[:, order, :, head].unflatten(1, (-1, group.tile)).permute(3, 0, 1, 2, 4)
            scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
            if group.bias_index is not None:
                table = self.relative_position_bias_table[str(head)].float()
                scores = scores + torch.cat([table, table.new_full((1,), float("-inf"))])[group.bias_index[:, 0]]
            weights.append(scores.softmax(dim=-1).flatten(0, 1))
        return weights


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention, (..., heads, tokens, d) -> the same; ``bias`` is added to the scores."""
    if q.device.type == "cpu" and torch.is_grad_enabled() and (q.requires_grad or (bias is not None and bias.requires_grad)):
        return RecomputedAttention.apply(q, k, v, bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class RecomputedAttention(torch.autograd.Function):
    """Attention in training on a CPU: q, k, v (..., heads, tokens, d) and a bias that broadcasts
    over the rest, or None.

    On a CPU, torch's fused attention has no gradient for the bias, and its fallback keeps the
    scores of every head for the backward pass. Without a bias, its backward pass is several times
    slower than plain products in bfloat16. Sequences are short, so this function keeps q, k and v
    only, and computes the weights again.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(q, k, v, bias)
        return _weights(q, k, bias) @ v

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, bias = ctx.saved_tensors
        # Once, where each of the products below would make its own copy.
        q, k, v, grad = (tensor.contiguous() for tensor in (*tensors, grad))
        weights, scale = _weights(q, k, bias), q.shape[-1] ** -0.5
        grad_scores = torch._softmax_backward_data(grad @ v.transpose(-2, -1), weights, -1, weights.dtype)
        return (
            grad_scores @ k * scale,
            grad_scores.transpose(-2, -1) @ q * scale,
            weights.transpose(-2, -1) @ grad,
            None if bias is None else grad_scores.sum_to_size(bias.shape),
        )


def _weights(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
    return (scores if bias is None else scores.add_(bias)).softmax(dim=-1)


class Group(NamedTuple):
    """Heads that are computed together.

    Positions refer to the (shifted) sequence cut into tiles.
    """

    tile: int  #: tokens in a tile
    heads: slice | Tensor  #: picks the heads of this group, a view where they are neighbours
    head_list: tuple[int, ...]
    order: Tensor | None  #: (tokens, heads) int64: where each position comes from, when windows are shifted
    bias_index: Tensor | None  #: (1 or tiles, heads, tile, tile) int64 into the heads' tables in a row and a last entry "outside"


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a plan made there would be unusable in training ever after
def plan_groups(length: int, window_sizes: tuple[int, ...], shift: bool, device: str) -> list[Group]:
    """Group the heads by tile. Raises HearMwmaeError where a window does not divide ``length``."""
    bad = [w for w in window_sizes if w and length % w]
    if bad:
        raise HearMwmaeError(f"windows {bad} do not divide a sequence of {length} tokens")
    members: dict[int, list[int]] = {}
    # Largest first, so that a tile exists before the windows that fit into it. Global heads share a
    # separate tile.
    for head in sorted(range(len(window_sizes)), key=lambda head: -(window_sizes[head] or length + 1)):
        w = window_sizes[head]
        host = next((t for t in members if w and 0 < t <= MAX_TILE and t % w == 0), w)
        members.setdefault(host, []).append(head)
    groups = []
    # By their first heads: the paper's windows then need no reordering after the groups are joined.
    for host, heads in sorted(((host, sorted(heads)) for host, heads in members.items()), key=lambda item: item[1]):
        neighbours = heads == list(range(heads[0], heads[-1] + 1))
        picked = slice(heads[0], heads[-1] + 1) if neighbours else torch.tensor(heads, device=device)
        sizes = [window_sizes[head] for head in heads]
        shifted = shift and host > 0
        order = torch.stack([torch.arange(length).roll(-(w // 2)) for w in sizes], dim=1) if shifted else None
        index = _bias_index(length, host, sizes, shifted) if host else None
        groups.append(
            Group(
                tile=host or length,
                heads=picked,
                head_list=tuple(heads),
                order=None if order is None else order.to(device),
                bias_index=None if index is None else index.to(device),
            )
        )
    return groups


def _bias_index(length: int, tile: int, sizes: list[int], shifted: bool) -> Tensor:
    """Index of each pair of positions into [table of head 0, table of head 1, ..., outside]."""
    position = torch.arange(length).view(-1, tile)  # (tiles, tile)
    if not shifted:
        position = position[:1]  # all tiles are alike
    outside = sum(2 * w - 1 for w in sizes)
    first, rows = 0, []
    for w in sizes:
        relative = position[:, :, None] - position[:, None, :] + w - 1
        inside = position[:, :, None] // w == position[:, None, :] // w
        if shifted:
            wrapped = position >= length - w // 2
            inside &= wrapped[:, :, None] == wrapped[:, None, :]
        rows.append(torch.where(inside, relative + first, outside))
        first += 2 * w - 1
    return torch.stack(rows, dim=1)


def _split(qkv: Tensor, groups: list[Group]) -> Sequence[Tensor]:
    """(B, tokens, 3, all heads, d) -> (B, tokens, 3, heads, d) for every group."""
    if all(isinstance(group.heads, slice) for group in groups):
        # Groups of neighbours stand in the order of the heads. One operation, because its gradient
        # is written once: with slices, each gradient would be a full-size tensor of zeros, added to
        # the others.
        return qkv.split([len(group.head_list) for group in groups], dim=3)
    return [qkv[:, :, :, group.heads] for group in groups]


def _take(chosen: Tensor, order: Tensor) -> Tensor:
    """Each head's positions in its own order, (B, tokens, 3, heads, d)."""
    return chosen.gather(1, order[None, :, None, :, None].expand_as(chosen))


def _put_back(y: Tensor, order: Tensor) -> Tensor:
    """Undo the order of `_take` on (B, tokens, heads, d)."""
    return y.gather(1, order.argsort(dim=0)[None, :, :, None].expand_as(y))
