"""A pretraining step of MW-MAE beside one of MAE of the same sizes: time, memory, share of the
product rate, and data.

    python benchmarks/pretrain.py [--rounds 7] [--size tiny] [--batch-size 32] [--threads 2]
    [--device cuda] [--precision bfloat16] [--compile]

With the paper's decoder and AdamW, update included, on noise. The models are run in turn, round
after round, so that a change of the machine's speed meets all of them; medians are printed, and the
ratio is the median of each round's own. Memory is what the forward pass keeps for the backward
pass, not compiled. "floor" is MAE with a decoder that computes queries, keys and values, but
attends to nothing: no windows can be cheaper than that. Data are clips of ten seconds of pink noise
in a pack on disk, read and turned into normalised log-mel crops as in training, with nothing else
going on.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import click
import flops
import numpy as np
import soundfile
import torch
from machine import processor
from torch.profiler import ProfilerActivity, profile

from hear_mwmae.attention import SelfAttention
from hear_mwmae.config import preset
from hear_mwmae.data.crops import Clips, StepSampler, log_mel_crops, read_batches
from hear_mwmae.data.pack import Pack
from hear_mwmae.data.packing import pack
from hear_mwmae.frontend import LogMelFrontend
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.training.dry_run import bytes_per_crop
from hear_mwmae.training.fabric import keep_freed_memory
from hear_mwmae.training.precision import product_rate, timed
from hear_mwmae.training.recipe import Recipe

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: Clips in the pack, and batches that are read.
CLIPS, BATCHES = 64, 40


class NoAttention(SelfAttention):
    """All of self-attention but the attention."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(
            v + 0 * (q + k)
        )  # as if they were needed, so that their gradients are computed


def make_model(kind: str, size: str) -> MaskedAutoencoder:
    model = MaskedAutoencoder(preset(f"{'mae' if kind == 'floor' else kind}-{size}"))
    if kind == "floor":
        for block in model.decoder.blocks:
            block.attn.__class__ = NoAttention
    return model


def step(
    model: MaskedAutoencoder,
    optimiser: torch.optim.Optimizer,
    batch: torch.Tensor,
    dtype: torch.dtype,
) -> None:
    with torch.autocast(batch.device.type, dtype, enabled=dtype != torch.float32):
        loss = model(batch).loss
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()


def crops_per_second(batch_size: int, workers: int) -> float:
    """Of the data pipeline alone, but its first quarter: what is read ahead at the start would
    flatter it.
    """
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(CLIPS):
            spectrum = np.fft.rfft(rng.standard_normal(160000)) / np.sqrt(np.arange(1, 80002))
            pink = np.fft.irfft(spectrum)
            soundfile.write(Path(folder, f"{number}.flac"), 0.3 * pink / np.abs(pink).max(), 16000)
        pack([folder], Path(folder, "pack"))
        recipe = Recipe.read("mwmae-tiny-audioset", [f"batch_size={batch_size}"])
        frontend, seconds = LogMelFrontend(recipe.model_config().frontend), []
        start = time.perf_counter()
        packed = Pack(f"{folder}/pack")
        sampler = StepSampler(packed, recipe)
        for batch in read_batches(
            Clips(packed, sampler.numbers), sampler.steps(0, BATCHES), workers
        ):
            log_mel_crops(frontend, batch, 200)
            seconds.append(time.perf_counter() - start)
            start = time.perf_counter()
    return batch_size / statistics.mean(seconds[BATCHES // 4 :])


@click.command(help=__doc__)
@click.option("--rounds", default=7, show_default=True)
@click.option("--size", default="tiny", show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--threads", default=torch.get_num_threads(), show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda, which is untested.")
@click.option(
    "--precision",
    "names",
    type=click.Choice(list(PRECISIONS)),
    multiple=True,
    help="Only this one.",
)
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Compile the models, as a recipe with compile = true does.",
)
@click.option(
    "--give-back", is_flag=True, help="Leave freed memory to glibc, which returns it to the system."
)
@click.option(
    "--where", is_flag=True, help="Say where the time of the MW-MAE step goes, by operation."
)
def main(
    rounds: int,
    size: str,
    batch_size: int,
    threads: int,
    device: str,
    names: tuple[str, ...],
    compiled: bool,
    give_back: bool,
    where: bool,
) -> None:
    torch.set_num_threads(threads)
    if not give_back:
        keep_freed_memory()  # as in training
    torch.manual_seed(0)
    models = {kind: make_model(kind, size).to(device) for kind in ("mae", "mwmae", "floor")}
    optimisers = {
        kind: torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
        for kind, model in models.items()
    }
    batch = torch.randn(batch_size, 200, 80, device=device)
    precisions = {name: PRECISIONS[name] for name in names or PRECISIONS}
    seconds: dict[tuple[str, str], list[float]] = {
        (kind, name): [] for name in precisions for kind in models
    }
    kept = {}
    for kind, name in seconds:
        with torch.autocast(batch.device.type, PRECISIONS[name], enabled=name != "float32"):
            kept[kind, name] = bytes_per_crop(models[kind], batch) / (1 << 20)
    if compiled:
        for model in models.values():
            model.compile()
    rates: dict[str, list[float]] = {name: [] for name in precisions}
    for number in range(rounds + 1):
        for name, dtype in precisions.items():
            rates[name] += [product_rate(dtype, device)] * (number > 0)
        for kind, name in seconds:
            duration = timed(
                partial(step, models[kind], optimisers[kind], batch, PRECISIONS[name]), device
            )
            seconds[kind, name] += [duration] * (number > 0)  # the first round warms up

    machine = f"{processor(device)}, {threads} threads, torch {torch.__version__}"
    print(
        f"{machine}, {size}, batch {batch_size}, medians of {rounds} rounds"
        + ", compiled" * compiled
    )
    print(
        f"{'model':8}{'precision':12}{'crops / s':>10}{'GFLOP/s':>9}{'share':>7}{'MiB kept / crop':>17}{'time to MAE':>13}"
    )
    for (kind, name), durations in seconds.items():
        model, duration, peak = (
            models[kind],
            statistics.median(durations),
            statistics.median(rates[name]),
        )
        rate = flops.update(model.config, kind != "floor") * batch_size / duration / 1e9
        ratio = statistics.median(
            a / b for a, b in zip(durations, seconds["mae", name], strict=True)
        )
        print(
            f"{kind:8}{name:12}{batch_size / duration:10.1f}{rate:9.0f}{rate / peak:7.0%}{kept[kind, name]:17.1f}{ratio:13.2f}"
        )
    for workers in (0, 1, 2):
        print(
            f"data alone, {workers} workers: {crops_per_second(batch_size, workers):.0f} crops / s"
        )
    print(
        "matrix products: "
        + ", ".join(
            f"{name} {statistics.median(values):.0f} GFLOP/s" for name, values in rates.items()
        )
    )
    if where:
        for name, dtype in precisions.items():
            with profile(
                activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (device == "cuda")]
            ) as profiled:
                step(models["mwmae"], optimisers["mwmae"], batch, dtype)
            print(f"\nMW-MAE, {name}")
            print(
                profiled.key_averages().table(
                    sort_by="self_cpu_time_total", row_limit=14, max_name_column_width=44
                )
            )


if __name__ == "__main__":
    main()
