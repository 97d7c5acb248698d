"""A pretrained model -> a larger one that computes the same, to continue training with.

    python -m research.grow MODEL -o OUT --win-length 2048 --heads 4 --decoder-depth 1

What a new window of the front-end contributes to the patch embedding is zero at first, and its
prediction is that of the first window, which it resembles. New heads of the encoder have the size
of the old ones, see `widen`. Of the decoder, the first blocks may be kept alone.
"""

import dataclasses
from pathlib import Path

import click
import torch
from torch import Tensor

from hear_mwmae.cli.options import Command, out_option
from hear_mwmae.config import ModelConfig
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.weights import check_no_model, load_strictly, save_model

PATCH_EMBEDDING = "encoder.patch_embed.weight"
#: The layers whose outputs are channels of the encoder's residual stream.
WRITERS = ("patch_embed", "attn.proj", "mlp.fc2")


@click.command(cls=Command, help=__doc__)
@click.argument("model")
@out_option("Folder to write the larger model to.", folder=True)
@click.option("--win-length", "more", type=int, multiple=True, help="Further window. Repeatable.")
@click.option("--heads", type=int, help="Of the encoder.")
@click.option("--decoder-depth", type=int, help="Blocks of the decoder that are kept.")
@click.option("--seed", default=0, show_default=True, help="Of what new channels read.")
def main(
    model: str,
    out: Path,
    more: tuple[int, ...],
    heads: int | None,
    decoder_depth: int | None,
    seed: int,
) -> None:
    check_no_model(out)
    small = MaskedAutoencoder.from_pretrained(model)
    config = small.config
    encoder, decoder, frontend = config.encoder, config.decoder, config.frontend
    heads = heads or encoder.heads
    width = encoder.width // encoder.heads * heads
    torch.manual_seed(seed)
    larger = dataclasses.replace(
        config,
        encoder=dataclasses.replace(encoder, width=width, heads=heads),
        decoder=dataclasses.replace(decoder, depth=decoder_depth or decoder.depth),
        frontend=dataclasses.replace(frontend, win_lengths=(*frontend.win_lengths, *more)),
    )
    save_model(out, larger, grow(small, larger).state_dict())


def grow(small: MaskedAutoencoder, larger: ModelConfig) -> MaskedAutoencoder:
    """A model of the configuration ``larger`` with the weights of ``small``.

    HearMwmaeError if these do not give all of its weights.
    """
    grown, config = MaskedAutoencoder(larger), small.config
    fresh = grown.state_dict()
    state = {name: value for name, value in small.state_dict().items() if name in fresh}
    if larger.frontend.channels > config.frontend.channels:
        state = add_channels(state, config.frontend.channels, larger.frontend.channels)
    if larger.encoder.width > config.encoder.width:
        state = widen(state, fresh, larger.encoder.heads)
    load_strictly(grown, state, "the smaller model")
    return grown


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


if __name__ == "__main__":
    main()
