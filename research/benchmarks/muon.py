"""An update of the package's Muon beside one of torch's, on the hidden matrices of a recipe's
model.

    python benchmarks/muon.py [--rounds 15] [--recipe mwmae-tiny-cpu] [--threads 2] [--device cuda]

They are run in turn, round after round; medians are printed, and the ratio is the median of each
round's own.
"""

from __future__ import annotations

import statistics

import click
import torch
from machine import processor

from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.training.optim import Muon, hidden_matrices
from hear_mwmae.training.precision import timed
from hear_mwmae.training.recipe import Recipe


@click.command(help=__doc__)
@click.option("--rounds", default=15, show_default=True)
@click.option("--recipe", default="mwmae-tiny-cpu", show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(rounds: int, recipe: str, threads: int, device: str) -> None:
    """Run the command line."""
    torch.set_num_threads(threads)
    model = MaskedAutoencoder(Recipe.read(recipe).model_config()).to(device)
    hidden = [model.get_parameter(name) for name in sorted(hidden_matrices(model))]
    for weight in hidden:
        weight.grad = torch.randn_like(weight)
    optimisers = {
        "torch's (bfloat16)": torch.optim.Muon(hidden, 1e-6, adjust_lr_fn="match_rms_adamw"),
        "float32": Muon(hidden, 1e-6, 0.1, torch.float32),
        "bfloat16": Muon(hidden, 1e-6, 0.1, torch.bfloat16),
    }
    times: dict[str, list[float]] = {name: [] for name in optimisers}
    for number in range(rounds + 2):
        for name, optimiser in optimisers.items():
            seconds = timed(optimiser.step, device)
            if number > 1:  # the first rounds warm up
                times[name].append(seconds)
    first = next(iter(times.values()))
    print(
        f"{processor(device)}, {threads} threads, torch {torch.__version__}, {len(hidden)} matrices"
    )
    for name, seconds in times.items():
        ratio = statistics.median(one / other for one, other in zip(seconds, first, strict=True))
        print(f"{name}: {statistics.median(seconds):.3f} s, {ratio:.2f} of torch's")


if __name__ == "__main__":
    main()
