"""Attention maps and head outputs of every encoder and decoder block, in batches of bounded memory.

The model runs unchanged. Hooks keep the input of every attention module and the outputs of its
heads before the output projection. Maps are computed from the input, block by block, on request.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..attention import MultiWindowAttention, SelfAttention, plan_groups
from ..errors import HearMwmaeError
from ..mae import MaskedAutoencoder

Attention = SelfAttention | MultiWindowAttention
#: In the place of a grid token's number: the CLS token, which lies nowhere on the grid.
CLS = -1


@dataclass(frozen=True)
class BlockTrace:
    """One attention module during one batch."""

    part: str  #: "encoder" or "decoder"
    block: int  #: from 0
    first: int  #: the first clip's number among all clips
    attention: Attention
    inputs: Tensor  #: (B, sequence, width), after the block's first normalisation
    outputs: Tensor  #: (B, sequence, heads, head width) float32: what the heads give before the output projection
    positions: Tensor  #: (B, sequence) int64: number of each token on the time-major patch grid, or CLS

    def maps(self) -> Tensor:
        """(B, heads, sequence, sequence) float32 attention weights, queries in rows; see
        `attention_maps`.
        """
        return attention_maps(self.attention, self.inputs)


@torch.no_grad()
def trace(
    model: MaskedAutoencoder, spectrograms: Tensor, noise: Tensor | None = None, batch_size: int = 8
) -> Iterator[BlockTrace]:
    """Every block of encoder and decoder, batch by batch; only one batch's activations are kept at
    a time.

    Args:
        spectrograms: (clips, input_frames, n_mels) float32, normalised; moved to the model's device
            batch by batch.
        noise: (clips, tokens) masks as in pretraining: the encoder sees the tokens of smallest
            noise in the order of their noise, the decoder sees these and mask tokens. Without
            noise, nothing is masked: both see every token in grid order, as the encoder does for
            embeddings. The decoder never does so in pretraining.
        batch_size: clips at a time. A block's maps take batch_size * heads * sequence^2 * 4 bytes.

    Raises:
        HearMwmaeError: ``noise`` has another shape, or ``batch_size`` is below 1.
    """
    tokens = model.config.num_tokens
    if noise is not None and noise.shape != (len(spectrograms), tokens):
        raise HearMwmaeError(f"noise must have shape ({len(spectrograms)}, {tokens}), got {tuple(noise.shape)}")
    if batch_size < 1:
        raise HearMwmaeError(f"batch_size must be 1 or above, got {batch_size}")
    device = model.encoder.pos_embed.device
    for first in range(0, len(spectrograms), batch_size):
        clips = spectrograms[first : first + batch_size].to(device)
        with _recording(model) as recorded:
            if noise is None:
                order = torch.arange(tokens, device=device).expand(len(clips), -1)
                model.decoder(model.encoder(clips), order)
            else:
                out = model(clips, noise[first : first + batch_size].to(device))
                order = out.ids_restore.argsort(dim=1)[:, : model.config.num_kept]
        grid = torch.arange(tokens, device=device).expand(len(clips), -1)
        places = {"encoder": order, "decoder": grid}
        if model.config.encoder.cls_token:
            places = {part: torch.cat([place.new_full((len(clips), 1), CLS), place], dim=1) for part, place in places.items()}
        for (part, block), (attention, inputs, outputs) in recorded.items():
            yield BlockTrace(part, block, first, attention, inputs, outputs, places[part])


@contextmanager
def _recording(model: MaskedAutoencoder) -> Iterator[dict[tuple[str, int], list]]:
    """Records [attention, inputs, outputs] of every (part, block) in runs of the model inside the
    context.
    """
    recorded: dict[tuple[str, int], list] = {}

    def keep_inputs(key: tuple[str, int], attention: nn.Module, args: tuple[Tensor]) -> None:
        recorded[key] = [attention, args[0]]

    def keep_outputs(key: tuple[str, int], heads: int, _: nn.Module, args: tuple[Tensor]) -> None:
        recorded[key].append(args[0].float().unflatten(-1, (heads, -1)))

    with ExitStack() as hooks:
        for part in ("encoder", "decoder"):
            for number, block in enumerate(getattr(model, part).blocks):
                key, heads = (part, number), len(head_windows(block.attn))
                for module, hook in (
                    (block.attn, partial(keep_inputs, key)),
                    (block.attn.proj, partial(keep_outputs, key, heads)),
                ):
                    hooks.callback(module.register_forward_pre_hook(hook).remove)
        yield recorded


def head_windows(attention: Attention) -> tuple[int, ...]:
    """Window size of every head in tokens; 0 for global heads."""
    return attention.window_sizes if isinstance(attention, MultiWindowAttention) else (0,) * attention.heads


@torch.no_grad()
def attention_maps(attention: Attention, inputs: Tensor) -> Tensor:
    """(B, sequence, width) -> (B, heads, sequence, sequence) float32: row q holds the weights of
    query q, which sum to 1.

    ``attention_weights`` of the module, head by head in float32, with zeros outside a head's
    windows.
    """
    batch, length, _ = inputs.shape
    maps = inputs.new_zeros(batch, len(head_windows(attention)), length, length, dtype=torch.float32)
    for head, (window, weights) in enumerate(zip(head_windows(attention), attention.attention_weights(inputs), strict=True)):
        if window and isinstance(attention, MultiWindowAttention):
            order = _order(attention, window, length, inputs.device)
            maps[:, head] = _whole(weights.unflatten(0, (batch, -1)), order)
        else:
            maps[:, head] = weights
    return maps


def visible_keys(attention: Attention, length: int, device: torch.device | None = None) -> Tensor:
    """(heads, length, length) bool: whether a head's query (rows) can see a key at all, in a
    sequence of ``length`` tokens.
    """
    device = device or torch.device("cpu")
    visible = torch.ones(len(head_windows(attention)), length, length, dtype=torch.bool, device=device)
    if isinstance(attention, MultiWindowAttention):
        for head, window in enumerate(attention.window_sizes):
            (group,) = plan_groups(length, (window,), attention.shift, str(device))
            if group.bias_index is not None:
                inside = group.bias_index[:, 0] < 2 * window - 1  # the entry after the bias table stands for "outside"
                windows = inside.expand(length // window, -1, -1)[None]
                visible[head] = _whole(windows, _order(attention, window, length, device))[0]
    return visible


def _order(attention: MultiWindowAttention, window: int, length: int, device: torch.device) -> Tensor:
    """(length,) int64: the token at each position of the sequence that is cut into windows."""
    return torch.arange(length, device=device).roll(-(window // 2) if attention.shift else 0)


def _whole(windows: Tensor, order: Tensor) -> Tensor:
    """Windows side by side (B, windows, w, w) -> (B, length, length) in the order of the sequence,
    nothing outside them.
    """
    batch, count, w, _ = windows.shape
    whole = windows.new_zeros(batch, count, w, count, w)
    number = torch.arange(count, device=windows.device)
    whole[:, number, :, number] = windows.transpose(0, 1)
    back = order.argsort()
    return whole.reshape(batch, count * w, count * w)[:, back][:, :, back]
