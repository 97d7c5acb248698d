"""Seconds of audio embedded per second.

    python -m research.benchmarks.embed [--rounds 7] [--size embedded --size base] [--device cuda]
    [--batch 16] [--onnx] [--files 600]

Models of random weights on a batch of clips of 10 s, in float32, in bfloat16 and, with --onnx,
what `hear-mwmae export` writes in onnxruntime. With --files, also `hear-mwmae embed FOLDER -o
TABLE` beside the encoder alone, both on as many clips of a second. All run in turn; medians.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

import click
import numpy as np
import soundfile
import torch

from hear_mwmae import linear, load_model
from hear_mwmae.cli.options import DEVICE
from hear_mwmae.config import preset
from hear_mwmae.embedder import DTYPES, Embedder
from hear_mwmae.export import export, open_exported
from hear_mwmae.weights import find_model

from .machine import describe, in_turn

SECONDS = 10
#: The size that means the configuration of the embedded model.
EMBEDDED = "embedded"


def encoder(size: str, rounds: int, batch: int, device: str, onnx: bool) -> None:
    """The rates of one model in all precisions."""
    config = find_model().config if size == EMBEDDED else preset(f"mwmae-{size}")
    audio = torch.rand(batch, SECONDS * 16000, device=device) * 2 - 1
    models = {}
    for name in DTYPES:
        torch.manual_seed(0)
        models[name] = Embedder(config, dtype=name).to(device)
    ways = {name: partial(model.embed, audio) for name, model in models.items()}
    if device == "cpu":
        ways["float32, torch's layers"] = partial(unfused, ways["float32"])
    cosine = torch.cosine_similarity(ways["bfloat16"](), ways["float32"]()).min()
    print(f"{size}: cosine of bfloat16 to float32 {cosine:.6f}")
    if onnx:
        with tempfile.TemporaryDirectory() as folder:
            export(models["float32"], Path(folder, "model.onnx"))
            exported = open_exported(Path(folder, "model.onnx"), torch.get_num_threads())
        ways["onnx"] = partial(exported, audio)
    for name, durations in in_turn(ways, rounds, device).items():
        print(f"{size} {name}: {batch * SECONDS / median(durations):.1f} s of audio / s")


def unfused(embed: Callable[[], torch.Tensor]) -> None:
    """Without oneDNN's private operation, as on a processor without AVX-512."""
    with patch.object(linear, "fuses", lambda *_: False):
        embed()


def files(clips: int, rounds: int) -> None:
    """The command's time is that of all clips less that of one clip: without its start."""
    rng = np.random.default_rng(0)
    noise = [rng.uniform(-0.5, 0.5, 16000).astype(np.float32) for _ in range(clips)]

    def command(folder: Path) -> None:
        table = folder.with_suffix(".npz")
        words = ["hear_mwmae.cli", "embed", str(folder), "-o", str(table), "--overwrite"]
        subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
        table.unlink()

    with tempfile.TemporaryDirectory() as place:
        ways = {"encoder": partial(load_model().embed, noise)}
        for name, some in (("all", noise), ("one", noise[:1])):
            Path(place, name).mkdir()
            for number, clip in enumerate(some):
                soundfile.write(Path(place, name, f"{number:06d}.wav"), clip, 16000)
            ways[name] = partial(command, Path(place, name))
        found = {name: median(durations) for name, durations in in_turn(ways, rounds).items()}
    rate = clips / (found["all"] - found["one"])
    print(f"encoder {clips / found['encoder']:.1f} clips/s, files {rate:.1f} clips/s")
    print(f"the command starts in {found['one']:.1f} s")


@click.command(help=__doc__)
@click.option("--rounds", default=7, show_default=True)
@click.option(
    "--size", "sizes", multiple=True, default=[EMBEDDED, "tiny", "base"], show_default=True
)
@click.option("--batch", default=16, show_default=True)
@DEVICE
@click.option("--onnx", is_flag=True)
@click.option("--files", "clips", default=0, show_default=True)
def main(
    rounds: int, sizes: tuple[str, ...], batch: int, device: str, onnx: bool, clips: int
) -> None:
    print(describe(device))
    for size in sizes:
        encoder(size, rounds, batch, device, onnx)
    if clips:
        files(clips, rounds)


if __name__ == "__main__":
    main()
