"""A pretraining step of MW-MAE beside one of MAE of the same sizes: time, memory, FLOP/s.

    python -m research.benchmarks.pretrain [--rounds 7] [--size tiny] [--batch-size 32]
    [--device cuda] [--compile] [--where]

With the paper's decoder and AdamW, update included, on noise. All run in turn; medians, and ratios
are the medians of each round's own. Memory is what the forward pass keeps for the backward pass,
not compiled.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from statistics import median

import click
import torch
from torch import Tensor
from torch.profiler import profile

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


def bytes_kept(run: Callable[[], object]) -> int:
    """Bytes that the forward passes of ``run`` keep for the backward pass, each tensor once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(kept.values())


@click.command(help=__doc__)
@click.option("--rounds", default=7, show_default=True)
@click.option("--size", default="tiny", show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", "names", multiple=True, default=list(PRECISIONS), show_default=True)
@click.option("--compile", "compiled", is_flag=True)
@click.option("--where", is_flag=True, help="Where the time of MW-MAE goes, by operation.")
def main(
    rounds: int,
    size: str,
    batch_size: int,
    device: str,
    names: tuple[str, ...],
    compiled: bool,
    where: bool,
) -> None:
    torch.manual_seed(0)
    models = {
        kind: MaskedAutoencoder(preset(f"{kind}-{size}")).to(device) for kind in ("mae", "mwmae")
    }
    batch = torch.randn(batch_size, 200, 80, device=device)
    ways: dict[tuple[str, str], Callable[[], object]] = {}
    for kind, model in models.items():
        optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
        for name in names:
            ways[kind, name] = partial(step, model, optimizer, batch, name)
    kept = {key: bytes_kept(way) / batch_size / (1 << 20) for key, way in ways.items()}
    work = {key: gigaflops(way) for key, way in ways.items()}
    if compiled:
        for model in models.values():
            model.compile()
    rates = {name: product_rate(PRECISIONS[name], device) for name in names}
    seconds = in_turn(ways, rounds, device)
    print(describe(device), f"{size}, batch {batch_size}", "compiled" if compiled else "")
    print(
        f"{'model':8}{'precision':12}{'crops/s':>9}{'GFLOP/s':>9}{'share':>7}"
        f"{'MiB/crop':>10}{'to MAE':>8}"
    )
    for (kind, name), durations in seconds.items():
        rate = work[kind, name] / median(durations)
        to_mae = ratio(durations, seconds["mae", name])
        print(
            f"{kind:8}{name:12}{batch_size / median(durations):9.1f}{rate:9.0f}"
            f"{rate / rates[name]:7.0%}{kept[kind, name]:10.1f}{to_mae:8.2f}"
        )
    if where:
        for name in names:
            with profile() as profiled:
                ways["mwmae", name]()
            print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=14))


if __name__ == "__main__":
    main()
