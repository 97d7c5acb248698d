"""A pretraining step of MW-MAE beside one of MAE of the same sizes: time and FLOP/s.

    python -m research.benchmarks.pretrain [--rounds 7] [--size tiny] [--batch-size 32]
    [--device cuda] [--compile]

With the paper's decoder and AdamW, update included, on noise. All run in turn; medians, and ratios
are the medians of each round's own.
"""

from contextlib import nullcontext
from functools import partial
from statistics import median

import click
import torch
from torch import Tensor

from hear_mwmae.config import preset
from hear_mwmae.mae import MaskedAutoencoder

from .machine import describe, gigaflops, in_turn, product_rate, ratio

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def step(
    model: MaskedAutoencoder, optimizer: torch.optim.Optimizer, batch: Tensor, precision: str
) -> None:
    """One update."""
    bfloat16 = torch.autocast(batch.device.type, torch.bfloat16)
    with bfloat16 if precision == "bfloat16" else nullcontext():
        loss = model(batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@click.command(help=__doc__)
@click.option("--rounds", default=7, show_default=True)
@click.option("--size", default="tiny", show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", "names", multiple=True, default=list(PRECISIONS), show_default=True)
@click.option("--compile", "compiled", is_flag=True)
def main(
    rounds: int, size: str, batch_size: int, device: str, names: tuple[str, ...], compiled: bool
) -> None:
    batch = torch.randn(batch_size, 200, 80, device=device)
    ways = {}
    work = {}
    for kind in ("mae", "mwmae"):
        model = MaskedAutoencoder(preset(f"{kind}-{size}")).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
        for name in names:
            ways[kind, name] = partial(step, model, optimizer, batch, name)
            work[kind, name] = gigaflops(ways[kind, name])
        if compiled:
            model.compile()
    rates = {name: product_rate(PRECISIONS[name], device) for name in names}
    seconds = in_turn(ways, rounds, device)
    print(f"{describe(device)}, {size}, batch {batch_size}{', compiled' * compiled}")
    for (kind, name), durations in seconds.items():
        rate = work[kind, name] / median(durations)
        print(
            f"{kind} {name}: {batch_size / median(durations):.1f} crops/s, {rate:.0f} GFLOP/s, "
            f"{rate / rates[name]:.0%} of the product rate, "
            f"{ratio(durations, seconds['mae', name]):.2f} of the time of MAE"
        )


if __name__ == "__main__":
    main()
