"""Linear probes on HEAR tasks: seconds to minutes, instead of hours with the evaluation kit.

A linear model on standardised embeddings is trained on all splits except one, and tested on that
split: on each fold in turn, or on the test split if the task has one. The score of a task is the
mean over its tested splits.

One label per clip: logistic regression (or a ridge classifier) on scene embeddings, scored by
accuracy. Any number of labels: ridge regression of all labels at once, scored by mean average
precision over labels. It uses scene embeddings for clips, and for events the timestamp embedding at
every 100th millisecond. Unlike HEAR's own score, this does not measure where exactly an event
begins.

The probes compare models during development. They are not HEAR's own protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ..audio import read_audio
from ..errors import HearMwmaeError
from . import Classifier
from .tasks import Event, ProbeTask

#: Strong regularisation: there are a few hundred clips and about a thousand dimensions.
INVERSE_REGULARISATION = 0.05
#: Penalty of the ridge classifier per dimension: of tasks with one label per clip.
SHRINKAGE_PER_DIMENSION = 1.0
#: Penalty of ridge regression per row: 0.3 of a dimension's variance.
SHRINKAGE = 0.3
#: Milliseconds between the moments at which events are probed; the first is half as far from the
#: beginning.
MOMENTS = 100.0
#: Bootstrap draws per step, which bounds the memory.
DRAWS_AT_ONCE = 100


class Embeds(Protocol):
    """A model to probe; `Embedder` documents shapes and units."""

    sample_rate: int

    def scene_embeddings(self, audio: Tensor) -> Tensor: ...

    def timestamp_embeddings(self, audio: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Classified:
    """Predictions for one tested split whose clips have one label each; scored by accuracy."""

    right: np.ndarray  #: (clips,) bool, whether each clip was classified rightly

    @property
    def clips(self) -> int:
        return len(self.right)

    def scores(self, counts: np.ndarray) -> np.ndarray:
        """(draws, clips), how often each clip counts -> (draws,) accuracies, 0 to 1."""
        return counts @ self.right / counts.sum(axis=1)


@dataclass(frozen=True)
class Ranked:
    """Predictions for one tested split whose clips have any number of labels; scored by mean
    average precision.
    """

    truth: np.ndarray  #: (rows, labels) bool
    ranking: np.ndarray  #: (rows, labels), higher where a label is more likely
    clip_of_row: np.ndarray  #: (rows,) int, the clip of each row
    clips: int

    def scores(self, counts: np.ndarray) -> np.ndarray:
        """(draws, clips), how often each clip counts -> (draws,) means over the labels in each
        draw, 0 to 1.
        """
        parts = np.array_split(counts, -(-len(counts) // DRAWS_AT_ONCE))
        return np.concatenate([self._mean_precision(part[:, self.clip_of_row]) for part in parts])

    def _mean_precision(self, weights: np.ndarray) -> np.ndarray:
        precisions = np.stack([average_precision(*label, weights) for label in zip(self.truth.T, self.ranking.T, strict=True)])
        held = ~np.isnan(precisions)
        return np.where(held, precisions, 0).sum(axis=0) / np.maximum(held.sum(axis=0), 1)


Outcome = Classified | Ranked


def average_precision(truth: np.ndarray, ranking: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """As scikit-learn's ``average_precision_score`` with ``sample_weight``, for many weights at
    once; NaN without positives.

    Args:
        truth: (rows,) bool.
        ranking: (rows,).
        weights: (draws, rows).
    """
    order = np.argsort(-ranking, kind="stable")
    weights, positive = weights[:, order], weights[:, order] * truth[order]
    # Rows of equal rank are one threshold: all of them get the precision at the last one.
    last = np.searchsorted(-ranking[order], -ranking[order], side="right") - 1
    with np.errstate(invalid="ignore"):
        precision = np.nan_to_num(positive.cumsum(axis=1) / weights.cumsum(axis=1))[:, last]
        return (positive * precision).sum(axis=1) / positive.sum(axis=1)


def probe(task: ProbeTask, model: Embeds) -> list[float]:
    """Accuracy or mean average precision, 0 to 1, on each tested split; :func:`metric`
    says which.
    """
    return split_scores(predict(task, model))


def split_scores(outcomes: Sequence[Outcome]) -> list[float]:
    """The score of each tested split, every clip counted once, 0 to 1."""
    return [float(outcome.scores(np.ones((1, outcome.clips)))[0]) for outcome in outcomes]


def metric(task: ProbeTask) -> str:
    """Name of the score of :func:`probe`."""
    return "mAP" if task.multilabel else "accuracy"


def predict(task: ProbeTask, model: Embeds, classifier: Classifier = "logistic") -> list[Outcome]:
    """Train on all other splits and predict, for each tested split.

    Args:
        classifier: for a task with one label per clip.
    """
    return _rank(task, model) if task.multilabel else _classify(task, model, classifier)


def _classify(task: ProbeTask, model: Embeds, classifier: Classifier) -> list[Outcome]:
    x = [np.stack([_scene(path, model) for path in split]) for split in task.splits]
    y = [np.array([label for (label,) in split.values()]) for split in task.splits]
    outcomes: list[Outcome] = []
    for held_out in task.tested:
        fitted = _make(classifier, x[0].shape[1]).fit(_others(x, held_out), _others(y, held_out))
        outcomes.append(Classified(fitted.predict(x[held_out]) == y[held_out]))
    return outcomes


def _make(classifier: Classifier, dimensions: int) -> Pipeline:
    if classifier == "ridge":
        return make_pipeline(StandardScaler(), RidgeClassifier(SHRINKAGE_PER_DIMENSION * dimensions))
    return make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_REGULARISATION, max_iter=2000))


def _rank(task: ProbeTask, model: Embeds) -> list[Outcome]:
    x, y, clip_of_row = map(list, zip(*(_rows(task, split, model) for split in task.splits), strict=True))
    outcomes: list[Outcome] = []
    for held_out in task.tested:
        inputs = _others(x, held_out)
        ridge = make_pipeline(StandardScaler(), Ridge(SHRINKAGE * len(inputs))).fit(inputs, _others(y, held_out))
        if not y[held_out].any():
            raise HearMwmaeError(f"{task.folder}: no event of a tested split covers any of the moments, every {MOMENTS:.0f} ms")
        outcomes.append(Ranked(y[held_out], ridge.predict(x[held_out]), clip_of_row[held_out], len(task.splits[held_out])))
    return outcomes


def _others(splits: list[np.ndarray], held_out: int) -> np.ndarray:
    """All splits but one, joined."""
    return np.concatenate(splits[:held_out] + splits[held_out + 1 :])


def _rows(task: ProbeTask, split: dict[Path, list], model: Embeds) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings (rows, D), labels (rows, labels) bool and clip (rows,) of all clips of a split, or
    of their moments.
    """
    labels = np.array(task.labels)
    if task.events:
        x, y = zip(*(_moments(path, events, labels, model) for path, events in split.items()), strict=True)
    else:
        x = [_scene(path, model)[None] for path in split]
        y = [np.isin(labels, found)[None] for found in split.values()]
    return np.concatenate(x), np.concatenate(y), np.repeat(np.arange(len(split)), list(map(len, x)))


def _scene(path: Path, model: Embeds) -> np.ndarray:
    return model.scene_embeddings(_audio(path, model))[0].cpu().numpy()


def _audio(path: Path, model: Embeds) -> Tensor:
    """(1, samples) at the model's rate."""
    audio = read_audio(path, model.sample_rate)
    if not audio.isfinite().all():
        raise HearMwmaeError(f"{path} holds NaN or infinity")
    return audio[None]


def _moments(path: Path, events: list[Event], labels: np.ndarray, model: Embeds) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings nearest to regular moments, which are the same for every model, and the labels
    at these moments.
    """
    audio = _audio(path, model)
    embeddings, times = (part[0].cpu().numpy() for part in model.timestamp_embeddings(audio))
    moments = np.arange(MOMENTS / 2, 1000 * audio.shape[1] / model.sample_rate, MOMENTS)
    nearest = np.searchsorted((times[1:] + times[:-1]) / 2, moments)
    held = np.zeros((len(moments), len(labels)), bool)
    for label, start, end in events:
        held[:, labels == label] |= ((start <= moments) & (moments < end))[:, None]
    return embeddings[nearest], held
