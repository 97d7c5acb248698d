"""Seconds of audio embedded per second of time, and the share of the machine's matrix-product rate
that this reaches.

    python benchmarks/embed.py [--rounds 7] [--sizes tiny,base] [--threads 2] [--device cuda]
    [--onnx] [--files 600]

Models of random weights on a batch of 16 clips of 10 s. All variants are run in turn, round after
round, so that a change of the machine's speed meets all of them; medians are printed. "plain" is
float32 without the oneDNN path of hear_mwmae/linear.py; on another device it is float32 once more.
Products are in full float32, without TF32. CUDA is untested. --onnx goes on with
benchmarks/export.py, and --files with benchmarks/embed_files.py on so many files, in the same run.
"""

from __future__ import annotations

import platform
import statistics
from importlib import import_module

import click
import flops
import torch
from machine import processor

from hear_mwmae import linear
from hear_mwmae.config import preset
from hear_mwmae.embedder import DTYPES, Embedder
from hear_mwmae.training.precision import product_rate, timed

CLIPS, SECONDS = 16, 10


@click.command(help=__doc__)
@click.option("--rounds", default=7, show_default=True)
@click.option("--sizes", default="tiny,base", show_default=True)
@click.option("--threads", default=torch.get_num_threads(), show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--onnx", is_flag=True, help="Also onnxruntime beside torch.")
@click.option(
    "--files",
    default=0,
    show_default=True,
    help="Also files to a table beside the encoder alone, of so many clips.",
)
@click.pass_context
def main(
    context: click.Context,
    rounds: int,
    sizes: str,
    threads: int,
    device: str,
    onnx: bool,
    files: int,
) -> None:
    encoder(rounds, sizes, threads, device)
    if onnx:
        context.invoke(import_module("export").main, rounds=rounds, sizes=sizes, threads=threads)
    if files:
        context.invoke(import_module("embed_files").main, clips=files, rounds=rounds)


@torch.inference_mode()
def encoder(rounds: int, sizes: str, threads: int, device: str = "cpu") -> None:
    """The rates of the encoder in all precisions."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    audio = (torch.rand(CLIPS, SECONDS * 16000) * 2 - 1).to(device)
    with_onednn = linear.ONEDNN
    models: dict[tuple[str, str], Embedder] = {}
    for size in sizes.split(","):
        exact = Embedder(preset(f"mwmae-{size}")).to(device)
        fast = Embedder(exact.config, dtype="bfloat16").to(device)
        fast.encoder.load_state_dict(exact.encoder.state_dict())
        models |= {(size, "float32"): exact, (size, "plain"): exact, (size, "bfloat16"): fast}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in models}
    rates: dict[str, list[float]] = {name: [] for name in DTYPES}
    for number in range(rounds + 1):
        for name, dtype in DTYPES.items():
            rates[name] += [product_rate(dtype, device)] * (number > 0)
        for key, model in models.items():
            linear.ONEDNN = with_onednn and key[1] != "plain"
            duration = timed(lambda model=model: model.scene_embeddings(audio), device)
            seconds[key] += [duration] * (number > 0)  # the first round warms up
    linear.ONEDNN = with_onednn

    print(
        f"{processor(device)}, {threads} threads, {platform.system()}, torch {torch.__version__}, medians of {rounds} rounds"
    )
    peak = {name: statistics.median(values) for name, values in rates.items()}
    print(
        "matrix products: " + ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in peak.items())
    )
    print(
        f"{'model':8}{'precision':12}{'s of audio / s':>15}{'GFLOP/s':>9}{'share':>7}{'to plain':>10}{'cosine':>11}"
    )
    for (size, kind), model in models.items():
        duration = statistics.median(seconds[size, kind])
        chunks = CLIPS * -(-(SECONDS * 100 + 1) // model.config.input_frames)
        rate = flops.embedding(model.config, chunks) / duration / 1e9
        share = rate / peak["bfloat16" if kind == "bfloat16" else "float32"]
        ratio = statistics.median(
            a / b for a, b in zip(seconds[size, "plain"], seconds[size, kind], strict=True)
        )
        exact = models[size, "float32"].scene_embeddings(audio[:2])
        cosine = torch.cosine_similarity(model.scene_embeddings(audio[:2]), exact).min()
        print(
            f"{size:8}{kind:12}{CLIPS * SECONDS / duration:15.1f}{rate:9.0f}{share:7.0%}{ratio:10.2f}{cosine:11.6f}"
        )


if __name__ == "__main__":
    main()
