"""A pretraining step of MW-MAE beside one of MAE of the same sizes.

    python -m research.benchmarks.pretrain [--rounds 7] [--size tiny] [--batch 32] [--compile]
    [--device cuda]

With the paper's decoder and AdamW, update included, on noise, in float32 and bfloat16. All run in
turn; medians, and ratios are the medians of each round's own.
"""

from functools import partial
from statistics import median

import click
import torch
from torch import Tensor

from hear_mwmae.cli.options import DEVICE
from hear_mwmae.config import preset
from hear_mwmae.mae import MaskedAutoencoder

from .machine import describe, in_turn, ratio

PRECISIONS = ("float32", "bfloat16")


def step(
    model: MaskedAutoencoder, optimizer: torch.optim.Optimizer, batch: Tensor, precision: str
) -> None:
    """One update."""
    half = precision == "bfloat16"
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=half):
        loss = model(batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@click.command(help=__doc__)
@click.option("--rounds", default=7, show_default=True)
@click.option("--size", default="tiny", show_default=True)
@click.option("--batch", default=32, show_default=True)
@click.option("--compile", "compiled", is_flag=True)
@DEVICE
def main(rounds: int, size: str, batch: int, compiled: bool, device: str) -> None:
    crops = torch.randn(batch, 200, 80, device=device)
    ways = {}
    for kind in ("mae", "mwmae"):
        model = MaskedAutoencoder(preset(f"{kind}-{size}")).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
        if compiled:
            model.compile()
        for precision in PRECISIONS:
            ways[kind, precision] = partial(step, model, optimizer, crops, precision)
    seconds = in_turn(ways, rounds, device)
    print(f"{describe(device)}, {size}, batch {batch}{', compiled' * compiled}")
    for (kind, precision), durations in seconds.items():
        share = ratio(durations, seconds["mae", precision])
        rate = batch / median(durations)
        print(f"{kind} {precision}: {rate:.1f} crops/s, {share:.2f} of the time of MAE")


if __name__ == "__main__":
    main()
