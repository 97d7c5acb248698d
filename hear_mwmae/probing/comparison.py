"""Scores of several models on several tasks, with bootstrap intervals over clips.

All models are scored on the same bootstrap draws of the clips, so that their differences have
paired intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..analysis.resampling import Estimate, bootstrap_counts
from ..errors import HearMwmaeError
from . import Classifier
from .linear_probe import Embeds, Outcome, metric, predict, split_scores
from .tasks import ProbeTask

DRAWS = 2000


@dataclass(frozen=True)
class Scored:
    """The mean score over tested splits, in percent, of all clips and of each bootstrap draw."""

    score: float
    draws: np.ndarray  #: (DRAWS,)
    splits: tuple[float, ...] = ()  #: the score on each tested split, in percent

    @property
    def estimate(self) -> Estimate:
        return Estimate.of(self.score, self.draws)

    def __sub__(self, other: Scored) -> Scored:
        return Scored(self.score - other.score, self.draws - other.draws)

    def __str__(self) -> str:
        return "{:.1f} [{:.1f}, {:.1f}]".format(*self.estimate)


def mean(scores: Sequence[Scored]) -> Scored:
    """The mean over tasks or models."""
    return Scored(float(np.mean([one.score for one in scores])), np.mean([one.draws for one in scores], axis=0))


def score(outcomes: list[Outcome], seed: int) -> Scored:
    """Scores of predictions. Equal numbers of clips and seeds mean equal draws."""
    splits = [100 * split for split in split_scores(outcomes)]
    seeds = np.random.SeedSequence(seed).spawn(len(outcomes))
    drawn = [outcome.scores(bootstrap_counts(outcome.clips, DRAWS, one)) for outcome, one in zip(outcomes, seeds, strict=True)]
    return Scored(float(np.mean(splits)), 100 * np.mean(drawn, axis=0), tuple(splits))


def score_models(
    tasks: Sequence[ProbeTask], models: dict[str, Embeds], classifier: Classifier = "logistic"
) -> list[dict[str, Scored]]:
    """For every task, the scores of every model. Tasks are drawn independently of each other."""
    return [
        {name: score(predict(task, model, classifier), number) for name, model in models.items()}
        for number, task in enumerate(tasks)
    ]


def table(tasks: Sequence[ProbeTask], scores: list[dict[str, Scored]]) -> list[dict[str, str]]:
    """A row per task with the score and 95 % interval of every model, and rows of the means over
    several tasks.
    """
    rows = [
        {"task": task.folder.resolve().name, "metric": metric(task), **{name: str(one) for name, one in row.items()}}
        for task, row in zip(tasks, scores, strict=True)
    ]
    if len(tasks) > 1:
        means = {name: mean([row[name] for row in scores]) for name in scores[0]}
        rows.append({"task": "mean", "metric": "", **{name: str(one) for name, one in means.items()}})
        first, *others = means
        if others:
            less = {name: str(means[name] - means[first]) for name in others}
            rows.append({"task": f"mean, minus {first}", "metric": "", first: "", **less})
    return rows


def compare_kinds(a: list[list[Outcome]], b: list[list[Outcome]], seed: int = 0) -> dict[str, Estimate]:
    """Mean scores in percent of two kinds of models, "a" and "b", and "b - a".

    Each bootstrap draw resamples the clips of every split, the same clips for all models, and the
    models of each kind. With few models of a kind, the intervals are too narrow rather than too
    wide.

    Args:
        a, b: for every model of a kind, its predictions for every tested split.
    """
    rng = np.random.default_rng(seed)
    kinds = []
    for outcomes in (a, b):
        models = [score(one, seed) for one in outcomes]
        draws = np.stack([model.draws for model in models])
        drawn = np.take_along_axis(draws, rng.integers(len(models), size=draws.shape), axis=0)
        kinds.append(Scored(float(np.mean([model.score for model in models])), drawn.mean(axis=0)))
    return {name: scored.estimate for name, scored in (("a", kinds[0]), ("b", kinds[1]), ("b - a", kinds[1] - kinds[0]))}


def predict_clips(task: ProbeTask, model: Embeds, classifier: Classifier = "logistic") -> list[Outcome]:
    """As :func:`predict`; HearMwmaeError if clips have more than one label."""
    if task.multilabel:
        raise HearMwmaeError(f"{task.folder}: a comparison needs one label per clip")
    return predict(task, model, classifier)
