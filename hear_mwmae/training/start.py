"""The first weights of a run that starts from another model."""

from __future__ import annotations

import dataclasses
import re

import torch
from torch import Tensor

from ..errors import HearMwmaeError
from ..mae import MaskedAutoencoder
from ..strict import load_strictly
from ..weights import DEFAULT_MODEL, read_model

#: Weights whose meaning depends on the patches, and which a model of other patches does not take
#: over.
OF_PATCHES = re.compile(
    r"(^|\.)(pos_embed|decoder_pos_embed|decoder_pred\..*|relative_position_bias_table\..*)$"
)
PATCH_EMBEDDING = "encoder.patch_embed.weight"


def start_from(model: MaskedAutoencoder, source: str) -> None:
    """Give ``model`` the weights of ``source``.

    HearMwmaeError if that model is of another architecture.

    The configurations may differ in masking, comparison and pooling, in the windows of the
    front-end if ``model`` only adds some, and in the size of the patches together with the
    decoder's windows. What a new channel contributes to the patch embedding is zero at first, and
    its prediction is that of the first channel, which it resembles. For other patches, the weights
    of the patch embedding are resized; position tables, window biases and the prediction layer of
    ``model`` remain as they are.
    """
    config, state = read_model(source)
    wanted = model.config
    same = dataclasses.replace(
        config,
        mask_ratio=wanted.mask_ratio,
        norm_pix_loss=wanted.norm_pix_loss,
        pooling=wanted.pooling,
    )
    old, new = config.frontend.win_lengths, wanted.frontend.win_lengths
    if old != new and old == new[: len(old)] and config.patch_size == wanted.patch_size:
        same = dataclasses.replace(
            same, frontend=dataclasses.replace(same.frontend, win_lengths=new)
        )
    if config.patch_size != wanted.patch_size:
        windows, heads = wanted.decoder.window_sizes, wanted.decoder.heads
        decoder = dataclasses.replace(config.decoder, heads=heads, window_sizes=windows)
        same = dataclasses.replace(same, patch_size=wanted.patch_size, decoder=decoder)
    if same != wanted:
        raise HearMwmaeError(
            f"start_from: {source or DEFAULT_MODEL} is of another architecture than the recipe's"
        )
    if config.patch_size != wanted.patch_size:
        own = model.state_dict()
        state = {name: own[name] if OF_PATCHES.search(name) else state[name] for name in own}
        state[PATCH_EMBEDDING] = resize_patches(
            state[PATCH_EMBEDDING], config.patch_size, wanted.patch_size
        )
    elif old != new:
        state = add_channels(state, len(old), len(new))
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


def resize_patches(weight: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """(width, old frames * old bands) -> (width, new frames * new bands): a new patch is embedded
    as if resized to the old size.

    Bilinear. Source of the idea: "FlexiViT: One Model for All Patch Sizes" (Beyer et al., CVPR
    2023).
    """
    pixels = torch.eye(new[0] * new[1], dtype=torch.float32, device=weight.device)
    pixels = pixels.unflatten(1, (1, *new))
    resizing = torch.nn.functional.interpolate(pixels, size=old, mode="bilinear").flatten(1)
    return weight.float() @ resizing.T
