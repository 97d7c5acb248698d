"""`hear-mwmae embed`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import HearMwmaeError
from ..extras import needs
from ..files import check_writable

if TYPE_CHECKING:
    import numpy as np

MODEL_HELP = (
    "The embedded model when not given; else a registered name, a directory, a .safetensors file, org/repo[@revision] on the "
    "Hugging Face Hub, or a checkpoint of the authors' code."
)


@click.command(short_help="Audio files to a table of embeddings.")
@click.argument("paths", nargs=-1, required=True, metavar="FILES_OR_FOLDERS...")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Table to write, .npz or .parquet.")
@click.option("--timestamps", is_flag=True, help="An embedding for every 40 ms instead of one per file.")
@click.option("--model", default="", metavar="MODEL", help=MODEL_HELP)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True, help="Of the encoder.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps, ...")
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Chunks of 2 s that are encoded together.",
)
def embed(
    paths: tuple[str, ...], output: Path | None, timestamps: bool, model: str, dtype: str, device: str, batch_size: int
) -> None:
    """Embed audio files: any format and rate libsndfile reads (wav, flac, ogg, opus, mp3, ...).

    Channels are mixed down and the rate converted to 16 kHz. Folders are searched for audio at any depth. Without -o, a line
    per file shows what was computed. With -o, the table has the columns "path" and "embedding" (float32), and "timestamp" in
    milliseconds with --timestamps: np.load("clips.npz")["embedding"], or pandas.read_parquet("clips.parquet").

    A file that cannot be read is reported and does not stop the rest; the exit code is then 1.
    """
    import torch

    from ..audio import find_audio
    from ..batch import OUTPUT_SUFFIXES, embed_files, write_table
    from ..checkpoint import load_embedder

    if output and output.suffix not in OUTPUT_SUFFIXES:
        raise HearMwmaeError(f"output must end in {' or '.join(OUTPUT_SUFFIXES)}, got {output}")
    if output and not output.absolute().parent.is_dir():
        raise HearMwmaeError(f"cannot write {output}: there is no folder {output.absolute().parent}")
    if output:
        try:
            check_writable(output)
        except OSError as error:
            raise HearMwmaeError(f"cannot write {output}: {error.strerror}") from error
    if output and output.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise needs("writing .parquet", "pyarrow", "parquet")
    files = find_audio(paths)
    embedder = load_embedder(model, dtype=dtype, max_batch=batch_size)
    try:
        embedder.to(torch.device(device))
        torch.zeros(1, device=device).item()  # "meta", say, is a device that holds no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise HearMwmaeError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    failures: list[str] = []
    results = []
    for result in embed_files(embedder, files, timestamps, failures, progress=len(files) > 1):
        if output:
            results.append(result)
        else:
            click.echo(_summary(result.path, result.embedding))
    for failure in failures:
        click.echo(f"not embedded: {failure}", err=True)
    if output:
        write_table(output, results)
        click.echo(f"{len(results)} of {len(files)} files -> {output}")
    if failures:
        sys.exit(1)


def _summary(file: str, embedding: np.ndarray) -> str:
    import numpy as np

    values = embedding.reshape(-1, embedding.shape[-1]).mean(axis=0)
    shape = " x ".join(map(str, embedding.shape))
    head = " ".join(f"{value:+.3f}" for value in values[:6])
    return f"{file}: {shape} float32, mean {values.mean():+.3f}, norm {np.linalg.norm(values):.2f}, starts {head}"
