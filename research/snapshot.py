"""The newest checkpoint of a pretraining run as a model of float16, while the run goes on.

python -m research.snapshot RUN -o MODEL
"""

from pathlib import Path

import click
import torch

from hear_mwmae.cli.options import Command, out_option
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.training.recipe import Recipe
from hear_mwmae.training.resume import newest_checkpoint, step_of
from hear_mwmae.weights import save_model


@click.command(cls=Command, help=__doc__)
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@out_option("Folder to write the model to.", folder=True)
def main(run: Path, out: Path) -> None:
    checkpoint = newest_checkpoint(run)
    if checkpoint is None:
        raise HearMwmaeError(f"{run} has no checkpoint yet")
    weights = torch.load(checkpoint, weights_only=True, mmap=True, map_location="cpu")["model"]
    save_model(out, Recipe.read(run / "recipe.toml").model_config(), weights, torch.float16)
    click.echo(f"step {step_of(checkpoint)} -> {out}")


if __name__ == "__main__":
    main()
