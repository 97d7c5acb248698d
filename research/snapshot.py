"""The newest checkpoint of a pretraining run as a model, while the run goes on.

    python -m research.snapshot RUN -o MODEL [--dtype float16]

MODEL is a folder that `load_model` takes.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch

from hear_mwmae.cli.options import Command, out_option
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.training.recipe import Recipe
from hear_mwmae.training.resume import newest_checkpoint, step_of
from hear_mwmae.weights import save_model


@click.command(cls=Command, help=__doc__)
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@out_option("Folder to write the model to.", folder=True)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float16",
    show_default=True,
)
def main(run: Path, out: Path, dtype: str) -> None:
    checkpoint = newest_checkpoint(run)
    if checkpoint is None:
        raise HearMwmaeError(f"{run} has no checkpoint yet")
    config = Recipe.read(run / "recipe.toml").model_config()
    weights = torch.load(checkpoint, weights_only=True, mmap=True, map_location="cpu")["model"]
    save_model(out, config, weights, getattr(torch, dtype))
    click.echo(f"step {step_of(checkpoint)} -> {out}")


if __name__ == "__main__":
    main()
