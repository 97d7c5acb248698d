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

from collections.abc import Callable, Iterator, Sequence
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
from .errors import HearMwmaeError
from .tasks import Event, Task

#: Classifiers of tasks with one label per clip.
Classifier = Literal["logistic", "ridge"]

#: Strong regularisation: there are a few hundred clips and about a thousand dimensions.
INVERSE_REGULARISATION = 0.05
#: Penalty of the ridge classifier per dimension: of tasks with one label per clip.
SHRINKAGE_PER_DIMENSION = 1.0
#: Penalty of ridge regression per row: 0.3 of a dimension's variance.
SHRINKAGE = 0.3
#: Milliseconds between the moments at which events are probed; the first is half as far from the
#: beginning.
MOMENTS = 100.0
#: Clips that are read and embedded at a time.
BATCH = 32
#: Bootstrap draws, and how many are computed at a time, which bounds the memory.
DRAWS = 2000
DRAWS_AT_ONCE = 100


class Embeds(Protocol):
    """A model to probe: the attributes and the method ``embed`` of `Embedder`.

    ``embed`` takes a list of clips, each (samples,) float32 at ``sample_rate``, and ``timestamps``.
    """

    sample_rate: int
    scene_embedding_size: int
    timestamp_embedding_size: int

    @property
    def embed(self) -> Callable[..., Any]: ...


@dataclass(frozen=True)
class Predictions:
    """The predictions for one tested split, beside the truth.

    Clips with one label each are scored by accuracy. With any number of labels, a row is a clip or
    a moment of one, and the score is the mean average precision over labels.
    """

    truth: np.ndarray  #: (rows,) names; or (rows, labels) bool
    predicted: np.ndarray  #: (rows,) names; or (rows, labels), higher where a label is more likely
    clip_of_row: np.ndarray  #: (rows,) int
    clips: int

    def scores(self, counts: np.ndarray) -> np.ndarray:
        """(draws, clips), how often each clip counts -> (draws,) scores, 0 to 1."""
        parts = np.array_split(counts, -(-len(counts) // DRAWS_AT_ONCE))
        return np.concatenate([self._scores(part[:, self.clip_of_row]) for part in parts])

    def _scores(self, weights: np.ndarray) -> np.ndarray:
        if self.truth.ndim == 1:
            return weights @ (self.truth == self.predicted) / weights.sum(axis=1)
        labels = zip(self.truth.T, self.predicted.T, strict=True)
        precisions = np.stack([average_precision(*label, weights) for label in labels])
        # A label that no drawn clip has does not count.
        held = ~np.isnan(precisions)
        return np.where(held, precisions, 0).sum(axis=0) / np.maximum(held.sum(axis=0), 1)


class EmbeddedSplit(NamedTuple):
    """The embeddings of a split: a row for each clip, or for each moment of one."""

    embeddings: np.ndarray  #: (rows, D)
    truth: np.ndarray  #: see `Predictions`
    clip_of_row: np.ndarray  #: (rows,) int


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
        truth: (rows,) bool.
        ranking: (rows,).
        weights: (draws, rows).
    """
    order = np.argsort(-ranking, kind="stable")
    weights = weights[:, order]
    positive = weights * truth[order]
    # Rows of equal rank are one threshold: all of them get the precision at the last one.
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
    return [split_score(split) for split in predict(task, model)]


def split_score(predictions: Predictions) -> float:
    """The score of a tested split, every clip counted once, 0 to 1."""
    return float(predictions.scores(np.ones((1, predictions.clips)))[0])


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
    x, y, clip_of_row = zip(*splits, strict=True)
    predictions = []
    for held_out in task.tested:
        if task.multilabel and not y[held_out].any():
            raise HearMwmaeError(
                f"{task.folder}: no event of a tested split covers any of the moments, every "
                f"{MOMENTS:.0f} ms"
            )
        inputs = _others(x, held_out)
        predictor = _make_predictor(task, classifier, inputs.shape).fit(
            inputs, _others(y, held_out)
        )
        predicted = predictor.predict(x[held_out])
        clips = len(task.splits[held_out])
        predictions.append(Predictions(y[held_out], predicted, clip_of_row[held_out], clips))
    return predictions


def score(predictions: Sequence[Predictions], seed: int) -> Score:
    """The mean over tested splits. Equal numbers of clips and seeds mean equal draws."""
    seeds = np.random.SeedSequence(seed).spawn(len(predictions))
    drawn = []
    for split, one in zip(predictions, seeds, strict=True):
        drawn.append(split.scores(bootstrap_counts(split.clips, DRAWS, one)))
    value = 100 * float(np.mean([split_score(split) for split in predictions]))
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
    if not all(task.events for task in tasks):
        sizes = {name: model.scene_embedding_size for name, model in models.items()}
        rows.append(_row("embedding size", sizes))
    if any(task.events for task in tasks):
        sizes = {name: model.timestamp_embedding_size for name, model in models.items()}
        rows.append(_row("embedding size of events", sizes))
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


def _embed_split(task: Task, split: dict[Path, list], model: Embeds, bar: tqdm) -> EmbeddedSplit:
    if task.events:
        return _moments(task, split, model, bar)
    x = [model.embed(clips).cpu().numpy() for clips in _batches(split, model, bar)]
    if task.multilabel:
        y = np.stack([np.isin(task.labels, labels) for labels in split.values()])
    else:
        y = np.array([label for (label,) in split.values()])
    return EmbeddedSplit(np.concatenate(x), y, np.arange(len(split)))


def _moments(task: Task, split: dict[Path, list[Event]], model: Embeds, bar: tqdm) -> EmbeddedSplit:
    """The embeddings nearest to regular moments, which are the same for every model, and the labels
    at these moments.
    """
    names = np.array(task.labels)
    all_events = iter(split.values())
    x, y = [], []
    for clips in _batches(split, model, bar):
        for audio, steps, times in zip(clips, *model.embed(clips, timestamps=True), strict=True):
            moments = np.arange(MOMENTS / 2, 1000 * len(audio) / model.sample_rate, MOMENTS)
            times = times.cpu().numpy()
            nearest = np.searchsorted((times[1:] + times[:-1]) / 2, moments)
            x.append(steps.cpu().numpy()[nearest])
            held = np.zeros((len(moments), len(names)), bool)
            for label, start, end in next(all_events):
                held[:, names == label] |= ((start <= moments) & (moments < end))[:, None]
            y.append(held)
    clip_of_row = np.repeat(np.arange(len(split)), [len(held) for held in y])
    return EmbeddedSplit(np.concatenate(x), np.concatenate(y), clip_of_row)


def _batches(paths: dict[Path, list], model: Embeds, bar: tqdm) -> Iterator[list]:
    """The audio of clips at the model's rate, BATCH at a time."""
    listed = list(paths)
    for start in range(0, len(listed), BATCH):
        batch = listed[start : start + BATCH]
        yield [read_audio(path, model.sample_rate) for path in batch]
        bar.update(len(batch))
