"""Commands of training: `pack`, `pretrain`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ..errors import HearMwmaeError
from ..extras import needs
from .options import Command, jobs_option

CHANGES = click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the recipe: steps=100, model.decoder.depth=2."
)


@click.command(cls=Command, short_help="Pack audio into shards for `pretrain`.")
@click.argument("sources", nargs=-1, required=True)
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--codec", type=click.Choice(["flac", "opus"]), default="flac", show_default=True, help="flac is lossless.")
@click.option("--kind", default="audio", show_default=True, help="Kind of clips without one; recipes set shares by kind.")
@click.option(
    "--shard-size", type=click.IntRange(1), default=256, show_default=True, metavar="MIB", help="MiB of source files per shard."
)
@jobs_option()
def pack(sources: tuple[str, ...], out: Path, codec: str, kind: str, shard_size: int, jobs: int) -> None:
    """Pack audio for `pretrain`: 16 kHz mono clips of at most ten seconds, in WebDataset shards
    with an index, in the folder OUT.

    SOURCES are folders, audio files, manifests (.csv: path, and optionally kind and further
    columns), or local or remote shards (.tar, .parquet), such as
    'hf://datasets/confit/audioset-16khz-wds/2m/train/*.tar'. The same command resumes an
    interrupted pack. A missing source is an error. Recordings that cannot be read are listed in
    OUT/skipped.csv.
    """
    try:
        from ..data.packing import pack as run_packing
    except ModuleNotFoundError as error:
        raise needs("packing", error.name, "train") from error

    packed = run_packing(sources, out, codec, kind, shard_size << 20, jobs)
    skipped = f"; {packed.skipped} skipped, see {out / 'skipped.csv'}" if packed.skipped else ""
    click.echo(f"{packed.clips:,} clips, {packed.hours:.2f} hours, {packed.shards} shards -> {out}{skipped}")


@click.command(cls=Command, short_help="Pretrain a model on a pack of audio.")
@click.argument("recipe")
@click.argument("data", required=False)
@click.argument("run", type=click.Path(file_okay=False, path_type=Path), required=False)
@CHANGES
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True)
@click.option(
    "--look-every",
    type=click.IntRange(0),
    default=500,
    show_default=True,
    help="Steps between pictures and probes, which are also made at the end.",
)
@click.option(
    "--probe",
    "tasks",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="HEAR-format task folder for linear probes during the run. Repeatable.",
)
@click.option("--resume", is_flag=True, help="Only resume RUN, never begin it: for scripts that restart runs.")
@click.option("--dry-run", is_flag=True, help="Print shapes, parameters, memory and time of the run, and stop.")
def pretrain(
    recipe: str,
    data: str | None,
    run: Path | None,
    changes: tuple[str, ...],
    device: str,
    look_every: int,
    tasks: tuple[Path, ...],
    resume: bool,
    dry_run: bool,
) -> None:
    """Pretrain a model as RECIPE says, on the audio in DATA, into RUN.

    RECIPE is a .toml file, or the name of a recipe in the package, such as mwmae-tiny-cpu. DATA is
    a pack made by `hear-mwmae pack`: a folder or its URL (https, s3, gs, hf, ...). RUN receives
    checkpoints/, log.csv, tensorboard/, pictures/ of reconstructions, probes.csv and finally
    model/. The same command resumes an interrupted run. For several processes, on one or many
    machines: torchrun --nproc-per-node 8 --no-python hear-mwmae pretrain RECIPE DATA RUN.
    """
    try:
        from ..training.checkpoints import newest_checkpoint
        from ..training.dry_run import dry_run as estimate
        from ..training.loop import pretrain as run_pretraining
        from ..training.recipe import Recipe
    except ModuleNotFoundError as error:
        raise needs("pretraining", error.name, "train") from error

    if tasks and not look_every:
        raise click.UsageError("--probe needs a --look-every above 0")
    settings = Recipe.read(recipe, changes)
    if dry_run:
        for what, value in estimate(settings, device):
            _echo_once(f"{what:20} {value}")
    elif data is None or run is None:
        raise click.UsageError("DATA and RUN are needed, unless --dry-run is given")
    elif resume and not newest_checkpoint(run):
        raise HearMwmaeError(f"{run} has no checkpoint to resume from")
    else:
        _echo_once(f"model: {run_pretraining(settings, data, run, device, look_every, tasks)}")


def _echo_once(text: str) -> None:
    """Print in the first process of torchrun only."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(text)
