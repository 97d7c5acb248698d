"""An update of the package's Muon beside one of torch's, on the hidden matrices of a model.

python -m research.benchmarks.muon [--rounds 15] [--recipe tiny] [--device cuda]
"""

from statistics import median

import click
import torch

from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.training.optim import Muon, hidden_matrices
from hear_mwmae.training.recipe import Recipe

from .machine import describe, in_turn, ratio


@click.command(help=__doc__)
@click.option("--rounds", default=15, show_default=True)
@click.option("--recipe", default="tiny", show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(rounds: int, recipe: str, device: str) -> None:
    model = MaskedAutoencoder(Recipe.read(recipe).model_config()).to(device)
    hidden = [model.get_parameter(name) for name in sorted(hidden_matrices(model))]
    for weight in hidden:
        weight.grad = torch.randn_like(weight)
    theirs = torch.optim.Muon(hidden, 1e-6, adjust_lr_fn="match_rms_adamw")
    ways = {
        "torch's": theirs.step,
        "float32": Muon(hidden, 1e-6, 0.1, torch.float32).step,
        "bfloat16": Muon(hidden, 1e-6, 0.1, torch.bfloat16).step,
    }
    seconds = in_turn(ways, rounds, device)
    print(f"{describe(device)}, {len(hidden)} matrices")
    for name, durations in seconds.items():
        to_torch = ratio(durations, seconds["torch's"])
        print(f"{name}: {median(durations):.3f} s, {to_torch:.2f} of torch's")


if __name__ == "__main__":
    main()
