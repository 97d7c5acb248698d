"""onnxruntime on what `hear-mwmae export` writes, beside the model in torch: seconds of audio
embedded per second of time.

    python benchmarks/export.py [--rounds 7] [--sizes tiny,base] [--threads 2]

Models of random weights. torch computes timestamp embeddings and their mean, as an exported model
gives both in one call. The two are run in turn, round after round, so that a change of the
machine's speed meets both; medians are printed, and the median of the rounds' ratios.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
from pathlib import Path

import click
import onnxruntime
import torch
from machine import processor

from hear_mwmae.config import preset
from hear_mwmae.embedder import Embedder
from hear_mwmae.export import export, open_exported
from hear_mwmae.training.precision import timed

#: (clips, seconds) of a batch.
BATCHES = ((1, 1), (1, 10), (16, 10))


@click.command(help=__doc__)
@click.option("--rounds", default=7, show_default=True)
@click.option("--sizes", default="tiny,base", show_default=True)
@click.option("--threads", default=torch.get_num_threads(), show_default=True)
@torch.inference_mode()
def main(rounds: int, sizes: str, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    print(
        f"{processor()}, {threads} threads, {platform.system()}, {versions}, medians of {rounds} rounds"
    )
    print(f"{'model':8}{'batch':>14}{'torch':>9}{'onnx':>9}{'ratio':>8}   s of audio / s")
    for size in sizes.split(","):
        model = Embedder(preset(f"mwmae-{size}"))
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False):
            export(model, Path(folder) / "model.onnx")
            exported = open_exported(Path(folder) / "model.onnx", threads)
        for clips, length in BATCHES:
            audio = torch.rand(clips, length * 16000) * 2 - 1
            seconds: dict[str, list[float]] = {"torch": [], "onnx": []}
            for number in range(rounds + 1):
                ways = {
                    "torch": lambda audio=audio, model=model: both(model, audio),
                    "onnx": lambda a=audio, run=exported: run(a),
                }
                for name, way in ways.items():
                    duration = timed(way)
                    seconds[name] += [duration] * (number > 0)  # the first round warms up
            rate = {
                name: clips * length / statistics.median(values) for name, values in seconds.items()
            }
            ratio = statistics.median(
                a / b for a, b in zip(seconds["torch"], seconds["onnx"], strict=True)
            )
            print(
                f"{size:8}{f'{clips} x {length} s':>14}{rate['torch']:9.1f}{rate['onnx']:9.1f}{ratio:8.2f}"
            )


def both(model: Embedder, audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Timestamp embeddings and their mean: one pass of the encoder, as in the graph."""
    embeddings, _ = model.timestamp_embeddings(audio)
    return embeddings.mean(dim=1), embeddings


if __name__ == "__main__":
    main()
