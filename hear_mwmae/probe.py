"""Linear probes on HEAR tasks: seconds to minutes, instead of hours with the evaluation kit.

A linear model on standardised embeddings is trained on all splits except one, and tested on that
split: on each fold in turn, or on the test split if the task has one. The score of a task is the
mean over its tested splits.

One label per clip: logistic regression (or a ridge classifier) on scene embeddings, scored by
accuracy. Any number of labels: ridge regression of all labels at once, scored by mean average
precision over labels.

The probes compare models during development. They are not HEAR's own protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from .audio import read_audio
from .bootstrap import Estimate, bootstrap_counts
from .tasks import Task

#: Classifiers of tasks with one label per clip.
Classifier = Literal["logistic", "ridge"]

#: Strong regularisation: there are a few hundred clips and about a thousand dimensions.
INVERSE_REGULARISATION = 0.05
#: Penalty of the ridge classifier per dimension: of tasks with one label per clip.
SHRINKAGE_PER_DIMENSION = 1.0
#: Penalty of ridge regression per row: 0.3 of a dimension's variance.
SHRINKAGE = 0.3
#: Clips that are read and embedded at a time.
BATCH = 32
#: Bootstrap draws of the clips, and how many are computed at a time, which bounds the memory.
DRAWS = 2000
DRAWS_AT_ONCE = 100


class Embeds(Protocol):
    """A model to probe: the attributes and the method ``embed`` of `Embedder`.

    ``embed`` takes a list of clips, each (samples,) float32 at ``sample_rate``, and returns one
    embedding for each, (clips, ``scene_embedding_size``).
    """

    sample_rate: int
    scene_embedding_size: int

    @property
    def embed(self) -> Callable[..., Any]: ...


@dataclass(frozen=True)
class Predictions:
    """The predictions for one tested split, beside the truth.

    Clips with one label each are scored by accuracy, clips with any number of labels by the mean
    average precision over labels.
    """

    truth: np.ndarray  #: (clips,) names; or (clips, labels) bool
    predicted: np.ndarray  #: (clips,) names; or (clips, labels), higher for a likelier label

    def scores(self, counts: np.ndarray) -> np.ndarray:
        """(draws, clips), how often each clip counts -> (draws,) scores, 0 to 1."""
        parts = np.array_split(counts, -(-len(counts) // DRAWS_AT_ONCE))
        return np.concatenate([self._scores(part) for part in parts])

    def _scores(self, counts: np.ndarray) -> np.ndarray:
        if self.truth.ndim == 1:
            return counts @ (self.truth == self.predicted) / counts.sum(axis=1)
        labels = zip(self.truth.T, self.predicted.T, strict=True)
        precisions = np.stack([average_precision(*label, counts) for label in labels])
        # A label that no drawn clip has does not count.
        held = ~np.isnan(precisions)
        return np.where(held, precisions, 0).sum(axis=0) / np.maximum(held.sum(axis=0), 1)

    @property
    def score(self) -> float:
        """The score of the split, every clip counted once, 0 to 1."""
        return float(self.scores(np.ones((1, len(self.truth))))[0])


class EmbeddedSplit(NamedTuple):
    """The embeddings of a split, beside the truth."""

    embeddings: np.ndarray  #: (clips, D)
    truth: np.ndarray  #: see `Predictions`


@dataclass(frozen=True)
class Score:
    """A score in percent, of all clips and of each bootstrap draw of the clips."""

    value: float
    draws: np.ndarray  #: (DRAWS,)

    @property
    def estimate(self) -> Estimate:
        """The value with its 95 % interval."""
        return Estimate.of(self.value, self.draws)

    def __sub__(self, other: Score) -> Score:
        return Score(self.value - other.value, self.draws - other.draws)

    def __str__(self) -> str:
        return "{:.1f} [{:.1f}, {:.1f}]".format(*self.estimate)


def average_precision(truth: np.ndarray, ranking: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """As scikit-learn's ``average_precision_score`` with ``sample_weight``, for many weights at
    once; NaN without positives.

    Args:
        truth: (clips,) bool.
        ranking: (clips,).
        weights: (draws, clips).
    """
    order = np.argsort(-ranking, kind="stable")
    weights = weights[:, order]
    positive = weights * truth[order]
    # Clips of equal rank are one threshold: all of them get the precision at the last one.
    last = np.searchsorted(-ranking[order], -ranking[order], side="right") - 1
    with np.errstate(invalid="ignore"):
        precision = np.nan_to_num(positive.cumsum(axis=1) / weights.cumsum(axis=1))[:, last]
        return (positive * precision).sum(axis=1) / positive.sum(axis=1)


def metric(task: Task) -> str:
    """Name of the score of a task."""
    return "mAP" if task.multilabel else "accuracy"


def probe(task: Task, model: Embeds) -> list[float]:
    """Accuracy or mean average precision, 0 to 1, on each tested split; :func:`metric` says
    which.
    """
    return [split.score for split in predict(task, model)]


def predict(
    task: Task, model: Embeds, classifier: Classifier = "logistic", title: str = ""
) -> list[Predictions]:
    """Train on all other splits and predict, for each tested split.

    Args:
        classifier: for a task with one label per clip.
        title: of the progress bar; there is none without it.
    """
    return predict_embedded(task, embed_splits(task, model, title), classifier)


def embed_splits(task: Task, model: Embeds, title: str = "") -> list[EmbeddedSplit]:
    """The embeddings of every split, which classifiers can share; see `predict`."""
    clips = sum(map(len, task.splits))
    hidden = None if title else True  # None: shown on a terminal only
    with tqdm(total=clips, desc=title, unit="clip", leave=False, disable=hidden) as bar:
        return [_embed_split(task, split, model, bar) for split in task.splits]


def predict_embedded(
    task: Task, splits: Sequence[EmbeddedSplit], classifier: Classifier
) -> list[Predictions]:
    """As `predict`, from the embeddings of the splits."""
    x, y = zip(*splits, strict=True)
    predictions = []
    for held_out in task.tested:
        inputs = _others(x, held_out)
        predictor = _make_predictor(task, classifier, inputs.shape).fit(
            inputs, _others(y, held_out)
        )
        predictions.append(Predictions(y[held_out], predictor.predict(x[held_out])))
    return predictions


def score(predictions: Sequence[Predictions], seed: int) -> Score:
    """The mean over tested splits. Equal numbers of clips and seeds mean equal draws."""
    seeds = np.random.SeedSequence(seed).spawn(len(predictions))
    drawn = []
    for split, one in zip(predictions, seeds, strict=True):
        drawn.append(split.scores(bootstrap_counts(len(split.truth), DRAWS, one)))
    value = 100 * float(np.mean([split.score for split in predictions]))
    return Score(value, 100 * np.mean(drawn, axis=0))


def mean(scores: Sequence[Score]) -> Score:
    """The mean over tasks or models."""
    draws = np.mean([one.draws for one in scores], axis=0)
    return Score(float(np.mean([one.value for one in scores])), draws)


def score_models(
    tasks: Sequence[Task], models: dict[str, Embeds], classifier: Classifier = "logistic"
) -> list[dict[str, Score]]:
    """For every task, the scores of every model, with a progress bar on stderr.

    All models are scored on the same draws of the clips, so that their differences have paired
    intervals. Tasks are drawn independently of each other.
    """
    scores = []
    for number, task in enumerate(tasks):
        row = {}
        for name, model in models.items():
            predictions = predict(task, model, classifier, title=f"{task.name}, {name}")
            row[name] = score(predictions, number)
        scores.append(row)
    return scores


def table(
    tasks: Sequence[Task], models: dict[str, Embeds], scores: list[dict[str, Score]]
) -> list[dict[str, str]]:
    """A row per task with the score and 95 % interval of every model; with several tasks, their
    means and the differences of these from the first model; and the sizes of the embeddings.
    """
    rows = []
    for task, row in zip(tasks, scores, strict=True):
        rows.append(_row(task.name, row, metric(task)))
    if len(tasks) > 1:
        means = {name: mean([row[name] for row in scores]) for name in models}
        rows.append(_row("mean", means))
        first, *others = models
        if others:
            differences = {name: means[name] - means[first] for name in others}
            rows.append(_row(f"mean, minus {first}", {first: "", **differences}))
    sizes = {name: model.scene_embedding_size for name, model in models.items()}
    rows.append(_row("embedding size", sizes))
    return rows


def _row(title: str, cells: dict[str, Any], metric: str = "") -> dict[str, str]:
    return {"task": title, "metric": metric, **{name: str(cell) for name, cell in cells.items()}}


def _make_predictor(task: Task, classifier: Classifier, shape: tuple[int, ...]) -> Pipeline:
    rows, dimensions = shape
    if task.multilabel:
        predictor = Ridge(SHRINKAGE * rows)
    elif classifier == "ridge":
        predictor = RidgeClassifier(SHRINKAGE_PER_DIMENSION * dimensions)
    else:
        predictor = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=2000)
    return make_pipeline(StandardScaler(), predictor)


def _others(splits: Sequence[np.ndarray], held_out: int) -> np.ndarray:
    """All splits but one, joined."""
    return np.concatenate([*splits[:held_out], *splits[held_out + 1 :]])


def _embed_split(
    task: Task, split: dict[Path, list[str]], model: Embeds, bar: tqdm
) -> EmbeddedSplit:
    paths = list(split)
    x = []
    for start in range(0, len(paths), BATCH):
        clips = [read_audio(path, model.sample_rate) for path in paths[start : start + BATCH]]
        x.append(model.embed(clips).cpu().numpy())
        bar.update(len(clips))
    if task.multilabel:
        y = np.stack([np.isin(task.labels, labels) for labels in split.values()])
    else:
        y = np.array([label for (label,) in split.values()])
    return EmbeddedSplit(np.concatenate(x), y)
