"""The first weights of a run that starts from another model."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..errors import HearMwmaeError
from ..mae import MaskedAutoencoder
from ..strict import load_strictly
from ..weights import DEFAULT_MODEL

PATCH_EMBEDDING = "encoder.patch_embed.weight"
#: The layers whose outputs are channels of the encoder's residual stream.
WRITERS = ("patch_embed", "attn.proj", "mlp.fc2")


def start_from(model: MaskedAutoencoder, source: str) -> None:
    """Give ``model`` the weights of ``source``.

    HearMwmaeError if that model is of another architecture.

    The configurations may differ in masking, comparison and pooling. ``model`` may have more
    windows in the front-end: what a new channel contributes to the patch embedding is zero at
    first, and its prediction is that of the first channel, which it resembles. It may have a wider
    encoder with heads of the same size, see `widen`, and fewer decoder blocks: the first ones.
    """
    begun = MaskedAutoencoder.from_pretrained(source)
    config, state = begun.config, begun.state_dict()
    wanted = model.config
    old, new = config.frontend.win_lengths, wanted.frontend.win_lengths
    frontend, encoder, decoder = config.frontend, config.encoder, config.decoder
    if old == new[: len(old)]:
        frontend = dataclasses.replace(frontend, win_lengths=new)
    width, heads = wanted.encoder.width, wanted.encoder.heads
    if width > encoder.width and width * encoder.heads == encoder.width * heads:
        encoder = dataclasses.replace(encoder, width=width, heads=heads)
    decoder = dataclasses.replace(decoder, depth=min(decoder.depth, wanted.decoder.depth))
    if wanted != dataclasses.replace(
        config,
        encoder=encoder,
        decoder=decoder,
        frontend=frontend,
        mask_ratio=wanted.mask_ratio,
        norm_pix_loss=wanted.norm_pix_loss,
        pooling=wanted.pooling,
    ):
        raise HearMwmaeError(
            f"start_from: {source or DEFAULT_MODEL} is of another architecture than the recipe's"
        )
    own = model.state_dict()
    state = {name: value for name, value in state.items() if name in own}
    if old != new:
        state = add_channels(state, len(old), len(new))
    if width != config.encoder.width:
        state = widen(state, own, heads)
    load_strictly(model, state, source or DEFAULT_MODEL)


def add_channels(state: dict[str, Tensor], old: int, new: int) -> dict[str, Tensor]:
    """The weights of ``state`` for a model of ``new`` channels instead of ``old``."""
    state = dict(state)
    # Channels are the last dimension of a patch.
    known = state[PATCH_EMBEDDING].unflatten(1, (-1, old))
    unheard = known.new_zeros(*known.shape[:2], new - old)
    state[PATCH_EMBEDDING] = torch.cat([known, unheard], dim=2).flatten(1)
    for name in ("decoder.decoder_pred.weight", "decoder.decoder_pred.bias"):
        known = state[name].unflatten(0, (-1, old))
        likely = known[:, :1].repeat_interleave(new - old, dim=1)
        state[name] = torch.cat([known, likely], dim=1).flatten(0, 1)
    return state


def widen(state: dict[str, Tensor], fresh: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    """The weights of ``state`` for a wider encoder of ``heads`` heads, which computes the same.

    The new channels of the residual stream are zero, and so is what new heads and new hidden units
    add to it. What they read has the random weights of ``fresh``, an untrained model of the new
    width, so that they learn from the first step.

    A layer norm divides by a deviation over more channels: its scale makes up for that. It
    subtracts a mean over more channels: what the old layers add to the stream is centred, so that
    this mean is zero, which changes nothing for the old layer norms.
    """
    wider = {name: value.clone() for name, value in fresh.items()}
    for name, value in state.items():
        place = wider[name]
        if name.startswith("encoder."):
            layer = name.removeprefix("encoder.").rpartition(".")[0]
            if layer.endswith(WRITERS):
                place.zero_()
                value = value - value.mean(dim=0)
            elif layer.endswith("attn.qkv"):
                old_heads = heads * len(value) // len(place)
                place, value = (
                    part.unflatten(0, (3, count, -1))
                    for part, count in ((place, heads), (value, old_heads))
                )
            elif not layer:  # positions and a CLS token
                place.zero_()
                value = value - value.mean(dim=-1, keepdim=True)
            elif "norm" in layer and name.endswith("weight"):
                value = value * (len(value) / len(place)) ** 0.5
        place[tuple(slice(size) for size in value.shape)] = value
    return wider
