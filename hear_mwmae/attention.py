"""Self-attention, and the paper's multi-window multi-head attention (MW-MHA)."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import HearMwmaeError
from .linear import Linear


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
        q, k, v = split_heads(self.qkv(x), self.heads)
        y = attend(q, k, v, self.bias(x.shape[1], q))
        return self.proj(y.transpose(1, 2).flatten(2))

    def bias(self, length: int, like: Tensor) -> Tensor | None:
        """What is added to the scores of ``length`` tokens, in the type and on the device of
        ``like``; None adds nothing.
        """
        return None

    @torch.no_grad()
    def attention_weights(self, x: Tensor) -> Tensor:
        """What each head attends to, for analysis: (B, heads, tokens, tokens) float32, rows sum to
        1.
        """
        q, k, _ = split_heads(self.qkv(x).float(), self.heads)
        return _weights(q, k, self.bias(x.shape[1], q))


class MultiWindowAttention(SelfAttention):
    """MW-MHA, (B, tokens, width) -> (B, tokens, width).

    Every head has its own window size. A windowed head cuts the sequence into non-overlapping
    windows, attends inside each and adds a learned bias for every relative position; a head of
    window size 0 attends globally, without a bias.

    Args:
        window_sizes: one per head; 0 = global. Each must divide the number of tokens.
        shift: move the windows of every windowed head by half their size. Positions that wrap
            around the end of the sequence do not attend to positions at its start.
    """

    def __init__(self, width: int, window_sizes: tuple[int, ...], shift: bool = False) -> None:
        if not window_sizes or min(window_sizes) < 0:
            raise HearMwmaeError(f"window sizes must be 0 (global) or above, got {window_sizes}")
        super().__init__(width, len(window_sizes))
        self.window_sizes = tuple(window_sizes)
        self.shift = shift
        self.relative_position_bias_table = nn.ParameterDict(
            {
                str(head): nn.Parameter(torch.empty(2 * w - 1))
                for head, w in enumerate(window_sizes)
                if w
            }
        )
        for table in self.relative_position_bias_table.values():
            if not table.is_meta:  # of a model that is about to be loaded
                nn.init.trunc_normal_(table, std=(0.02 / len(table)) ** 0.5)

    def bias(self, length: int, like: Tensor, heads: Sequence[int] | None = None) -> Tensor:
        """Learned bias inside the windows of each head and -inf outside, (heads, length, length).

        Args:
            heads: numbers of the heads; all when None.
        """
        chosen = range(self.heads) if heads is None else heads
        windows = tuple(self.window_sizes[head] for head in chosen)
        tables = [
            self.relative_position_bias_table[str(head)]
            for head in chosen
            if self.window_sizes[head]
        ]
        ends = like.new_tensor([0.0, float("-inf")])  # of global heads, and outside of the windows
        values = torch.cat([*(table.to(like.dtype) for table in tables), ends])
        return values[relative_positions(length, windows, self.shift, str(like.device))]


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # an index made there would be unusable in training ever after
def relative_positions(
    length: int, window_sizes: tuple[int, ...], shift: bool, device: str
) -> Tensor:
    """(heads, tokens, tokens) int64: the place of each pair of tokens in [tables of the windowed
    heads in a row, global, outside].

    Raises HearMwmaeError where a window does not divide ``length``.
    """
    if bad := [w for w in window_sizes if w and length % w]:
        raise HearMwmaeError(f"windows {bad} do not divide a sequence of {length} tokens")
    token = torch.arange(length, device=device)
    relative = token[:, None] - token[None, :]
    rows = sum(2 * w - 1 for w in window_sizes if w)
    first = 0
    index = []
    for w in window_sizes:
        if not w:
            index.append(torch.full_like(relative, rows))
            continue
        moved = token - w // 2 if shift else token  # below 0: wraps around the end
        window = moved.div(w, rounding_mode="floor")
        index.append(
            torch.where(window[:, None] == window[None, :], relative + first + w - 1, rows + 1)
        )
        first += 2 * w - 1
    return torch.stack(index)


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, tokens, 3 * width) -> queries, keys and values, each (B, heads, tokens, width /
    heads).
    """
    q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return q, k, v


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention, (B, heads, tokens, d) -> the same; ``bias`` is added to the scores."""
    if q.device.type == "cpu" and torch.is_grad_enabled() and q.requires_grad:
        return RecomputedAttention.apply(q, k, v, bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class RecomputedAttention(torch.autograd.Function):
    """Attention in training on a CPU: q, k, v (B, heads, tokens, d) and a bias that broadcasts over
    the batch, or None.

    On a CPU, torch's fused attention has no gradient for the bias, and its fallback keeps the
    scores of every head for the backward pass. Without a bias, its backward pass is several times
    slower than plain products in bfloat16. Sequences are short, so this function keeps q, k and v
    only, and computes the weights again.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        y = _weights(q, k, bias) @ v
        ctx.save_for_backward(q, k, v, bias, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, y = ctx.saved_tensors
        # Once, where each of the products below would make its own copy.
        q, k, v, grad = (tensor.contiguous() for tensor in (q, k, v, grad))
        weights = _weights(q, k, bias)
        scale = q.shape[-1] ** -0.5
        # The gradient of the softmax: weights times (their gradient g minus sum(g * weights)), and
        # that sum is the one over the output times its gradient.
        grad_scores = (
            (grad @ v.transpose(-2, -1)).sub_((grad * y).sum(dim=-1, keepdim=True)).mul_(weights)
        )
        return (
            grad_scores @ k * scale,
            grad_scores.transpose(-2, -1) @ q * scale,
            weights.transpose(-2, -1) @ grad,
            None if bias is None else grad_scores.sum_to_size(bias.shape),
        )


def _weights(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
    return (scores if bias is None else scores.add_(bias)).softmax(dim=-1)
