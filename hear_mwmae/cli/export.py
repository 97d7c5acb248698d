"""`hear-mwmae export`."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from ..errors import HearMwmaeError
from .options import POOLING, Command, out_option

#: Largest difference between an exported file and its model.
TOLERANCE = 1e-4


@click.command(cls=Command, short_help="Export a model as an .onnx file.")
@click.argument("model", default="")
@out_option("File to write, .onnx.", folder=False)
@POOLING
def export(model: str, out: Path, pooling: str | None) -> None:
    """Export MODEL, waveform to scene and timestamp embeddings, as one file for onnxruntime and
    other readers of ONNX.

    It takes float32 audio (clips, samples) at 16 kHz, of any number and length, and computes
    scene_embeddings, timestamp_embeddings and timestamps. MODEL defaults to the embedded model. The
    command compares the file with the model.
    """
    from ..export import export as export_model
    from ..export import largest_difference
    from ..weights import load_embedder

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it names packages that are not used
    embedder = load_embedder(model, pooling=pooling)
    export_model(embedder, out)
    size = f"{out}: {out.stat().st_size / 1e6:.1f} MB"
    try:
        difference = largest_difference(embedder, out)
    except ModuleNotFoundError as error:
        click.echo(f"{size}; not compared with the model, which needs {error.name}")
        return
    if not difference <= TOLERANCE:
        raise HearMwmaeError(
            f"{size}, but it differs from the model by {difference:.1e}, more than {TOLERANCE:.0e}"
        )
    click.echo(f"{size}; differs from the model by at most {difference:.1e}")
