"""Compares two kinds of models by linear probes, with several pretraining seeds of each.

    python -m research.compare TASK... -a MAE -a MAE_OTHER_SEED -b MWMAE -b MWMAE_OTHER_SEED

TASKS have one label per clip. The 95 % bootstrap intervals draw the seeds of each kind and the
clips of each split, the same clips for both kinds. With few seeds they are too narrow rather than
too wide.
"""

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from hear_mwmae.baselines import load_probed
from hear_mwmae.cli.options import CLASSIFIER, DEVICE, POOLING, TASKS, Command
from hear_mwmae.probe import Classifier, Score, predict, score
from hear_mwmae.tasks import find_tasks, read_task


def mean_over_seeds(models: Sequence[Score], rng: np.random.Generator) -> Score:
    """The mean score of a kind of models, each draw of the clips with a draw of the models."""
    draws = np.stack([model.draws for model in models])
    drawn = np.take_along_axis(draws, rng.integers(len(models), size=draws.shape), axis=0)
    return Score(float(np.mean([model.value for model in models])), drawn.mean(axis=0))


@click.command(cls=Command, help=__doc__)
@TASKS
@click.option("-a", "a", multiple=True, required=True, metavar="MODEL", help="Repeatable.")
@click.option("-b", "b", multiple=True, required=True, metavar="MODEL", help="Repeatable.")
@POOLING
@CLASSIFIER
@DEVICE
def main(
    tasks: tuple[Path, ...],
    a: tuple[str, ...],
    b: tuple[str, ...],
    pooling: str | None,
    classifier: Classifier,
    device: str,
) -> None:
    for folder in find_tasks(tasks):
        task = read_task(folder)
        rng = np.random.default_rng(0)
        kinds = []
        for models in (a, b):
            scored = []
            for model in models:
                outcomes = predict(task, load_probed(model, pooling, device), classifier)
                scored.append(score(outcomes, 0))
                click.echo(f"{folder.name:32} {scored[-1].value:5.1f}   {model}")
            kinds.append(mean_over_seeds(scored, rng))
        first, second = kinds
        for name, kind in (("a", first), ("b", second), ("b - a", second - first)):
            click.echo(f"{folder.name:32} {name:5} {kind}")


if __name__ == "__main__":
    main()
