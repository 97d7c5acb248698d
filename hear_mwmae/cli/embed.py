"""`hear-mwmae embed`."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..errors import HearMwmaeError, needs_extra
from ..files import check_folder_of, printable
from .options import DEVICE, DTYPE, MODEL, POOLING, Command, out_option


@click.command(cls=Command, short_help="Audio files to a table of embeddings.")
@click.argument("inputs", nargs=-1, required=True)
@out_option("Table (.npz, .csv, .parquet) or folder of Parquet files to write.", required=False)
@click.option(
    "--timestamps", is_flag=True, help="One embedding per time step instead of one per clip."
)
@MODEL
@POOLING
@DTYPE
@DEVICE
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Two-second chunks per encoder call.",
)
@click.option("--overwrite", is_flag=True, help="Replace what another model or settings made.")
@click.option(
    "--ray",
    "address",
    is_flag=False,
    flag_value="",
    metavar="[ADDRESS]",
    help="Share the work among processes of Ray; put it last, or write --ray=ADDRESS.",
)
@click.option(
    "--ray-cpus",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="CPUs of a process of Ray. With --device cuda it also takes a GPU.",
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
    overwrite: bool,
    address: str | None,
    ray_cpus: int,
    quiet: bool,
) -> None:
    """Embed audio: one embedding per clip, or one per time step.

    INPUTS are audio files of any format and rate, folders, manifests (.csv with a column "path"),
    and local or remote WebDataset and Parquet shards (.tar, .parquet). Channels are mixed down and
    resampled to 16 kHz. Without -o, the command prints one line per clip.

    With -o, the table has the columns "path", "seconds", the other columns of manifests and shards,
    and "embedding" (float32); with --timestamps also "timestamp" in milliseconds:
    np.load("clips.npz")["embedding"], or pandas.read_parquet("clips.parquet"). The same command
    resumes an interrupted run, and later embeds only what is new or changed. For that, a table
    keeps its parts in OUT.parts.

    Inputs that cannot be read are listed in OUT.failures.csv and do not stop the others. The exit
    code is then 1.
    """
    from ..data.sources import find_inputs
    from ..embedding.run import embed_to, folder_of_parts, show
    from ..weights import DEFAULT_MODEL, load_embedder

    if address is not None and not out:
        raise click.UsageError("--ray needs -o/--out")
    target = _output(out) if out else None
    found = find_inputs(inputs)
    if not found.items:
        found.check()
    share = None
    if address is not None:
        with needs_extra("ray", "--ray"):
            from ..embedding.cluster import embed_parts
        share = partial(embed_parts, address=address, device=device, cpus=ray_cpus)
    options: dict[str, Any] = {"pooling": pooling, "dtype": dtype, "max_batch": batch_size}
    embedder = load_embedder(model, "cpu" if share else device, **options)
    if target is None:
        failures = show(embedder, found, timestamps, progress=not quiet)
    else:
        kept = folder_of_parts(target)
        resume = f"what is done is kept in {kept}, and the same command resumes the run"
        try:
            clips, failures = embed_to(
                target,
                embedder,
                found,
                timestamps,
                name=model or DEFAULT_MODEL,
                overwrite=overwrite,
                share=share,
                progress=not quiet,
                echo=click.echo,
            )
        except KeyboardInterrupt:
            click.echo(f"interrupted: {resume}", err=True)
            sys.exit(130)
        except OSError as error:
            where = error.filename or target
            raise HearMwmaeError(f"cannot write {where}: {error.strerror}; {resume}") from error
    for name, reason in failures:
        click.echo(printable(f"not embedded: {name}: {reason}"), err=True)
    if target:
        if not clips:
            raise HearMwmaeError(f"nothing to write to {target}: nothing could be embedded")
        click.echo(f"{clips} of {clips + len(failures)} clips -> {target}")
    if failures:
        sys.exit(1)


def _output(path: Path) -> Path:
    from ..embedding.tables import TABLE_SUFFIXES

    path = path if path.name else path.resolve()  # "."
    if path.suffix and path.suffix not in TABLE_SUFFIXES and not path.is_dir():
        endings = ", ".join(TABLE_SUFFIXES)
        raise HearMwmaeError(f"output must be a folder, or end in {endings}, got {path}")
    check_folder_of(path)
    return path
