"""A training step with the tiled MW-MHA beside one with the plain MW-MHA.

    python -m research.benchmarks.attention [--rounds 9] [--recipe tiny] [--batch 16]
    [--precision bfloat16] [--compile] [--device cuda]

On noise, with AdamW, update included. Both run in turn; the ratio is the median of each round's.
"""

from functools import partial
from statistics import median
from unittest import mock

import click
import torch

from hear_mwmae import encoder
from hear_mwmae.attention import MultiWindowAttention
from hear_mwmae.cli.options import DEVICE
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.training.recipe import Recipe

from .machine import describe, in_turn, ratio
from .pretrain import PRECISIONS, step


@click.command(help=__doc__)
@click.option("--rounds", default=9, show_default=True)
@click.option("--recipe", default="tiny", show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default="float32")
@click.option("--compile", "compiled", is_flag=True)
@DEVICE
def main(rounds: int, recipe: str, batch: int, precision: str, compiled: bool, device: str) -> None:
    config = Recipe.read(recipe).model_config()
    models = {"tiled": MaskedAutoencoder(config)}
    with mock.patch.object(encoder, "TiledMultiWindowAttention", MultiWindowAttention):
        models["plain"] = MaskedAutoencoder(config)
    crops = torch.randn(batch, config.input_frames, config.frontend.bands, device=device)
    ways = {}
    for name, model in models.items():
        model.to(device)
        if compiled:
            model.compile()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
        ways[name] = partial(step, model, optimizer, crops, precision)
    seconds = in_turn(ways, rounds, device)
    print(f"{describe(device)}, {precision}{', compiled' * compiled}")
    for name, durations in seconds.items():
        print(f"{name}: {median(durations):.3f} s")
    print(f"tiled takes {ratio(seconds['tiled'], seconds['plain']):.2f} of plain")


if __name__ == "__main__":
    main()
