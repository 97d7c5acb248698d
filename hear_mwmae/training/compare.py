"""Two kinds of models, several pretraining seeds each: linear probes, and how far apart they are.

    python -m hear_mwmae.training.compare TASK_DIR... -a MAE -a MAE_OTHER_SEED -b MWMAE -b MWMAE_OTHER_SEED

Tasks have one label per clip; scores are those of `hear_mwmae.training.probe`, means over the seeds. Intervals are 95 % of a
bootstrap that draws the seeds of each kind and the clips of each split anew, the same clips for both kinds: with few seeds, too
narrow rather than too wide.
"""

from __future__ import annotations

import click
import numpy as np

from ..checkpoint import load_embedder
from ..commands import Command
from .hear_task import read_task
from .probe import probe_clips

DRAWS = 10_000
#: Percentiles that enclose 95 %.
INTERVAL = (2.5, 97.5)


def bootstrap(a: list[list[np.ndarray]], b: list[list[np.ndarray]], seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """(score, low, high) in percent of "a", "b" and "b - a".

    Args:
        a, b: for every model of a kind and every split, which clips were classified rightly, (clips,) bool.
    """
    rng = np.random.default_rng(seed)
    means = {}  # of every model, split and draw of clips; the draws are the same for all
    counts = [rng.multinomial(len(split), np.full(len(split), 1 / len(split)), DRAWS) / len(split) for split in a[0]]
    for name, models in (("a", a), ("b", b)):
        scores = np.stack([np.mean([c @ right for c, right in zip(counts, model, strict=True)], axis=0) for model in models])
        means[name] = np.take_along_axis(scores, rng.integers(len(models), size=scores.shape), axis=0).mean(axis=0)
    score = {name: np.mean([np.mean([r.mean() for r in model]) for model in models]) for name, models in (("a", a), ("b", b))}
    means["b - a"], score["b - a"] = means["b"] - means["a"], score["b"] - score["a"]
    return {name: tuple(100 * x for x in (score[name], *np.percentile(means[name], INTERVAL))) for name in means}


@click.command(cls=Command, help=__doc__)
@click.argument("tasks", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False))
@click.option("-a", "a", multiple=True, required=True, metavar="MODEL", help="What load_model takes; may be given again.")
@click.option("-b", "b", multiple=True, required=True, metavar="MODEL")
def main(tasks: tuple[str, ...], a: tuple[str, ...], b: tuple[str, ...]) -> None:
    for task in map(read_task, tasks):
        kinds = [[probe_clips(task, load_embedder(model)) for model in models] for models in (a, b)]
        for models, results in zip((a, b), kinds, strict=True):
            for model, rightly in zip(models, results, strict=True):
                click.echo(f"{task.folder.name:32} {100 * np.mean([right.mean() for right in rightly]):5.1f}   {model}")
        for name, (score, low, high) in bootstrap(*kinds).items():
            click.echo(f"{task.folder.name:32} {name:5} {score:5.1f}   [{low:.1f}, {high:.1f}]")


if __name__ == "__main__":
    main()
