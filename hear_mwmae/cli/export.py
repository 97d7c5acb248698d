"""`hear-mwmae export`."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import HearMwmaeError
from .options import DTYPE, POOLING, Command, out_option

#: Largest difference between an exported float32 file and its model.
TOLERANCE = 1e-4


@click.command(cls=Command, short_help="Export a model as one file, .onnx or .pt2.")
@click.argument("model", default="")
@out_option("File to write, .onnx or .pt2.", folder=False)
@DTYPE
@POOLING
def export(model: str, out: Path, dtype: str, pooling: str | None) -> None:
    """Export MODEL, waveform to scene and timestamp embeddings, as one file for other runtimes.

    .onnx is for onnxruntime and other readers of ONNX, .pt2 for torch.export.load. Both take
    float32 audio (clips, samples) at 16 kHz, of any number and length, and compute
    scene_embeddings, timestamp_embeddings and timestamps; bfloat16 needs .pt2. MODEL defaults to
    the embedded model. The command compares the file with the model.
    """
    from ..export import export as export_model
    from ..export import largest_difference
    from ..weights import load_embedder

    embedder = load_embedder(model, dtype=dtype, pooling=pooling)
    export_model(embedder, out)
    size = f"{out}: {out.stat().st_size / 1e6:.1f} MB"
    try:
        difference = largest_difference(embedder, out)
    except ModuleNotFoundError as error:
        click.echo(f"{size}; not compared with the model, which needs {error.name}")
        return
    if dtype == "float32" and not difference <= TOLERANCE:
        raise HearMwmaeError(
            f"{size}, but it differs from the model by {difference:.1e}, more than {TOLERANCE:.0e}"
        )
    click.echo(f"{size}; differs from the model by at most {difference:.1e}")
