"""Commands of training: `pack`, `pretrain`."""

import os
from pathlib import Path

import click

from ..errors import needs_extra
from .options import Command, jobs_option, out_option


@click.command(cls=Command, short_help="Make a data set of audio for `pretrain`.")
@click.argument("sources", nargs=-1, required=True)
@out_option("Folder to make.", folder=True)
@click.option(
    "--codec",
    type=click.Choice(["flac", "opus"]),
    default="flac",
    show_default=True,
    help="flac is lossless; opus takes a fifth of the space, and longer to decode.",
)
@click.option(
    "--kind",
    default="audio",
    show_default=True,
    help="Kind of clips without one; recipes set shares by kind.",
)
@jobs_option()
@needs_extra("train", "packing")
def pack(sources: tuple[str, ...], out: Path, codec: str, kind: str, jobs: int) -> None:
    """Make a data set for `pretrain` in the new folder OUT: 16 kHz mono clips of at most ten
    seconds.

    SOURCES are folders, audio files, manifests (.csv: path, and optionally kind and further
    columns), or local or remote shards (.tar, .parquet), such as
    'hf://datasets/confit/audioset-16khz-wds/2m/train/*.tar'. A missing source is an error.
    Recordings that cannot be read are listed in OUT/skipped.csv. OUT is a data set of Hugging Face
    `datasets`: load_from_disk reads it, and push_to_hub uploads it.
    """
    from ..training.pack import SKIPPED
    from ..training.pack import pack as run_packing

    packed = run_packing(sources, out, codec, kind, jobs)
    skipped = f"; {packed.skipped} skipped, see {out / SKIPPED}" if packed.skipped else ""
    click.echo(f"{packed.clips:,} clips, {packed.hours:.2f} hours -> {out}{skipped}")


@click.command(cls=Command, short_help="Pretrain a model on packed audio.")
@click.argument("recipe")
@click.argument("data", required=False)
@click.argument("run", type=click.Path(file_okay=False, path_type=Path), required=False)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the recipe: steps=100, model.decoder.depth=2. Repeatable.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
)
@click.option("--dry-run", is_flag=True, help="Print shapes, parameters and steps, and stop.")
@needs_extra("train", "pretraining")
def pretrain(
    recipe: str,
    data: str | None,
    run: Path | None,
    changes: tuple[str, ...],
    device: str,
    dry_run: bool,
) -> None:
    """Pretrain a model as RECIPE says, on the audio in DATA, into RUN.

    RECIPE is a .toml file, or a recipe of the package: tiny, small, base, audioset. DATA is a
    folder that `hear-mwmae pack` made, or org/name[@revision] on the Hugging Face Hub. RUN receives
    recipe.toml, logs/, checkpoints/ and finally model/. The same command resumes an interrupted
    run. For several processes, on one or many machines: torchrun --nproc-per-node 8 --no-python
    hear-mwmae pretrain RECIPE DATA RUN.
    """
    from ..training.fabric import settle_precision
    from ..training.loop import pretrain as run_pretraining
    from ..training.recipe import Recipe

    settings = Recipe.read(recipe, changes)
    if dry_run:
        for what, value in settle_precision(settings, device).describe():
            click.echo(f"{what:12} {value}")
        return
    if data is None or run is None:
        raise click.UsageError("DATA and RUN are needed, unless --dry-run is given")
    model = run_pretraining(settings, data, run, device)
    if os.environ.get("RANK", "0") == "0":  # the first process of torchrun
        click.echo(f"model: {model}")
