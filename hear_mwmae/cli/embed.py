"""`hear-mwmae embed`."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import click

from ..errors import HearMwmaeError
from ..extras import needs
from ..files import printable
from .options import DEVICE, MODEL, POOLING, Command, out_option


@click.command(cls=Command, short_help="Audio files to a table of embeddings.")
@click.argument("inputs", nargs=-1, required=True)
@out_option("Table (.npz, .npy, .csv, .parquet) or folder of Parquet files to write.", required=False)
@click.option("--timestamps", is_flag=True, help="One embedding per time step instead of one per clip.")
@MODEL
@POOLING
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True, help="Precision.")
@DEVICE
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Two-second chunks per encoder call.",
)
@click.option("--quiet", is_flag=True, help="No progress bar.")
def embed(
    inputs: tuple[str, ...],
    out: Path | None,
    timestamps: bool,
    model: str,
    pooling: str | None,
    dtype: str,
    device: str,
    batch_size: int,
    quiet: bool,
) -> None:
    """Embed audio: one embedding per clip, or one per time step.

    INPUTS are audio files of any rate (wav, flac, ogg, opus, mp3, ...; with PyAV also m4a, webm,
    ...), folders, manifests (.csv with a column "path"), and local or remote WebDataset and Parquet
    shards (.tar, .parquet). Channels are mixed down and resampled to 16 kHz. Without -o, the
    command prints one line per clip.

    With -o, the table has the columns "path" and "embedding" (float32), and "timestamp" in
    milliseconds with --timestamps: np.load("clips.npz")["embedding"], or
    pandas.read_parquet("clips.parquet"). For clips.npy, clips.csv has the other columns. After an
    interruption or a full disk, the same command resumes the run. torchrun shares a run among
    processes.

    Inputs that cannot be read are listed in OUT.failures.csv and do not stop the others. The exit
    code is then 1.
    """
    from ..checkpoint import load_embedder
    from ..data.sources import find_inputs
    from ..embedding.run import Output, embed_to, show

    first = os.environ.get("RANK", "0") == "0"
    target = Output(_output_path(out)) if out else None
    if target and first:
        target.check_inputs(inputs)
        target.check()
    found = find_inputs(inputs)
    if first and found.passed_over:
        click.echo(f"not read: {found.passed_over}", err=True)
    if not found.items:
        found.check()
    if device == "cuda" and "LOCAL_RANK" in os.environ:  # under torchrun, one for each process
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    embedder = load_embedder(model, device, pooling=pooling, dtype=dtype, max_batch=batch_size)
    outcome = None
    if target is None:
        failures = show(embedder, found, timestamps, progress=not quiet)
    else:
        try:
            outcome = embed_to(target, embedder, found, timestamps, progress=not quiet)
        except KeyboardInterrupt:
            click.echo(f"interrupted: progress is kept in {target.parts}, and the same command resumes the run", err=True)
            sys.exit(130)
        if outcome is None:
            return
        failures = outcome.failures
    for name, reason in failures:
        click.echo(printable(f"not embedded: {name}: {reason}"), err=True)
    if target and outcome:
        if not outcome.clips:
            raise HearMwmaeError(f"nothing to write to {target.path}: nothing could be embedded")
        click.echo(f"{outcome.clips} of {outcome.clips + len(failures)} clips -> {target.path}")
    if failures:
        sys.exit(1)


def _output_path(path: Path) -> Path:
    from ..embedding.tables import TABLE_SUFFIXES

    path = path if path.name else path.resolve()  # "."
    is_folder = path.is_dir() or not path.suffix
    if not is_folder and path.suffix not in TABLE_SUFFIXES:
        raise HearMwmaeError(f"output must be a folder, or end in {', '.join(TABLE_SUFFIXES)}, got {path}")
    if (is_folder or path.suffix == ".parquet") and importlib.util.find_spec("pyarrow") is None:
        raise needs("writing Parquet", "pyarrow", "parquet")
    return path
