"""A training step with the tiled MW-MHA beside one with the plain MW-MHA.

python -m research.benchmarks.attention [--rounds 9] [--recipe tiny] [--batch 16]
    [--precision bfloat16] [--compile] [--device cuda]
"""

from functools import partial
from statistics import median
from unittest import mock

import click
import torch

from hear_mwmae import encoder
from hear_mwmae.attention import MultiWindowAttention
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.training.recipe import Recipe

from .machine import describe, in_turn, ratio


@click.command(help=__doc__)
@click.option("--rounds", default=9, show_default=True)
@click.option("--recipe", default="tiny", show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32")
@click.option("--compile", "compiled", is_flag=True)
@click.option("--device", default="cpu", show_default=True)
def main(rounds: int, recipe: str, batch: int, precision: str, compiled: bool, device: str) -> None:
    config = Recipe.read(recipe).model_config()
    tiled = MaskedAutoencoder(config).to(device)
    with mock.patch.object(encoder, "TiledMultiWindowAttention", MultiWindowAttention):
        plain = MaskedAutoencoder(config).to(device)
    plain.load_state_dict(tiled.state_dict())
    spectrogram = torch.randn(batch, config.input_frames, config.frontend.bands, device=device)
    noise = torch.rand(batch, config.num_tokens, device=device)

    def step(model: torch.nn.Module) -> None:
        half = precision == "bfloat16"
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
            loss = model(spectrogram, noise).loss
        loss.backward()
        model.zero_grad()

    models = {"plain": plain, "tiled": tiled}
    if compiled:
        models = {name: torch.compile(model) for name, model in models.items()}
    ways = {name: partial(step, model) for name, model in models.items()}
    seconds = in_turn(ways, rounds, device)
    print(f"{describe(device)}, {precision}{', compiled' * compiled}")
    for name, durations in seconds.items():
        print(f"{name}: {median(durations):.3f} s")
    print(f"tiled takes {ratio(seconds['tiled'], seconds['plain']):.2f} of plain")


if __name__ == "__main__":
    main()
