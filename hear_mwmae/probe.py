"""Linear probes on HEAR tasks: seconds to minutes, instead of hours with the evaluation kit.

A linear classifier of standardised scene embeddings is trained on all splits except one, and tested
on that split: on each fold in turn, or on the test split if the task has one. The score of a task
is the mean accuracy over its tested splits. A clip has one label.

The probes compare models during development. They are not HEAR's own protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from .audio import read_audio
from .baselines import Probed
from .errors import HearMwmaeError
from .tasks import Task, find_tasks, read_task

Classifier = Literal["logistic", "ridge"]

#: Strong regularisation: there are a few hundred clips and about a thousand dimensions.
INVERSE_REGULARISATION = 0.05
#: Penalty of the ridge classifier per dimension.
SHRINKAGE_PER_DIMENSION = 1.0
#: Clips that are read and embedded at a time.
BATCH = 32
#: Bootstrap draws of the clips.
DRAWS = 2000
#: Percentiles that enclose 95 %.
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Score:
    """A score in percent, of all clips and of each bootstrap draw of the clips."""

    value: float
    draws: np.ndarray  #: (DRAWS,)

    @classmethod
    def of(cls, correct: Sequence[np.ndarray], seed: int) -> Score:
        """The mean accuracy over tested splits.

        Equal numbers of clips and equal seeds mean equal draws.

        Args:
            correct: for each tested split (clips,), 1 for a right answer, else 0.
        """
        seeds = np.random.SeedSequence(seed).spawn(len(correct))
        accuracies = []
        for right, split_seed in zip(correct, seeds, strict=True):
            clips = len(right)
            rng = np.random.default_rng(split_seed)
            # How often each clip is in a sample of as many clips: (DRAWS, clips).
            counts = rng.multinomial(clips, np.full(clips, 1 / clips), DRAWS)
            accuracies.append(counts @ right / clips)
        value = 100 * float(np.mean([right.mean() for right in correct]))
        return cls(value, 100 * np.mean(accuracies, axis=0))

    @property
    def estimate(self) -> tuple[float, float, float]:
        """The value, and the ends of its 95 % interval.

        These are percentiles of the draws, shifted so that the mean of the draws is the value.
        """
        low, high = np.percentile(self.draws, INTERVAL) - self.draws.mean() + self.value
        return self.value, float(low), float(high)

    def __sub__(self, other: Score) -> Score:
        return Score(self.value - other.value, self.draws - other.draws)

    def __str__(self) -> str:
        return "{:.1f} [{:.1f}, {:.1f}]".format(*self.estimate)


def mean(scores: Sequence[Score]) -> Score:
    """The mean over tasks or models."""
    draws = np.mean([one.draws for one in scores], axis=0)
    return Score(float(np.mean([one.value for one in scores])), draws)


def read_tasks(paths: Iterable[str | Path]) -> list[Task]:
    """The tasks among ``paths``, which are task folders, or folders of them.

    HearMwmaeError for a path without tasks, and for a task that cannot be probed.
    """
    tasks = [read_task(folder) for folder in find_tasks(paths)]
    for task in tasks:
        if task.multilabel:
            raise HearMwmaeError(
                f"{task.folder} is multilabel: the probes take one label per clip, "
                "`python -m eval` runs the other tasks"
            )
    return tasks


def embed_splits(task: Task, model: Probed, title: str) -> list[np.ndarray]:
    """The embeddings (clips, D) of every split.

    Args:
        title: of the progress bar, which is shown on a terminal only.
    """
    clips = sum(map(len, task.splits))
    embedded = []
    with tqdm(total=clips, desc=title, unit="clip", leave=False, disable=None) as bar:
        for split in task.splits:
            paths = list(split)
            batches = []
            for start in range(0, len(paths), BATCH):
                batch = [read_audio(p, model.sample_rate) for p in paths[start : start + BATCH]]
                batches.append(model.embed(batch).cpu().numpy())
                bar.update(len(batch))
            embedded.append(np.concatenate(batches))
    return embedded


def right_answers(
    task: Task, embedded: Sequence[np.ndarray], classifier: Classifier
) -> list[np.ndarray]:
    """For each tested split (clips,) bool: whether a classifier, trained on the others, is right.

    Args:
        embedded: the embeddings (clips, D) of every split.
    """
    truth = [np.array([label for (label,) in split.values()]) for split in task.splits]
    correct = []
    for held_out in task.tested:
        x = np.concatenate([embedded[number] for number in task.others(held_out)])
        y = np.concatenate([truth[number] for number in task.others(held_out)])
        if classifier == "ridge":
            linear = RidgeClassifier(SHRINKAGE_PER_DIMENSION * x.shape[1])
        else:
            linear = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=2000)
        predicted = make_pipeline(StandardScaler(), linear).fit(x, y).predict(embedded[held_out])
        correct.append(predicted == truth[held_out])
    return correct


def score_models(
    tasks: Sequence[Task], models: dict[str, Probed], classifier: Classifier = "logistic"
) -> list[dict[str, Score]]:
    """For every task, the scores of every model, with a progress bar on stderr.

    All models are scored on the same draws of the clips, so that their differences have paired
    intervals. Tasks are drawn independently of each other.
    """
    scores = []
    for seed, task in enumerate(tasks):
        row = {}
        for name, model in models.items():
            embedded = embed_splits(task, model, f"{task.name}, {name}")
            row[name] = Score.of(right_answers(task, embedded, classifier), seed)
        scores.append(row)
    return scores


def table(
    tasks: Sequence[Task], models: dict[str, Probed], scores: list[dict[str, Score]]
) -> list[dict[str, Any]]:
    """A row per task with the score and 95 % interval of every model; with several tasks, their
    means and the differences of these from the first model; and the sizes of the embeddings.
    """
    rows: list[dict[str, Any]] = []
    for task, row in zip(tasks, scores, strict=True):
        rows.append({"task": task.name, **row})
    if len(tasks) > 1:
        means = {name: mean([row[name] for row in scores]) for name in models}
        rows.append({"task": "mean", **means})
        first, *others = models
        if others:
            differences = {name: means[name] - means[first] for name in others}
            rows.append({"task": f"mean, minus {first}", **differences})
    sizes = {name: model.scene_embedding_size for name, model in models.items()}
    rows.append({"task": "embedding size", **sizes})
    return rows
