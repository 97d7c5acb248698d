"""Linear probes on HEAR-format tasks: seconds to minutes, where the whole evaluation kit takes hours.

    python -m hear_mwmae.training.probe TASK_DIR... [--model MODEL | --untrained PRESET | --log-mel]

A linear model on standardised embeddings, trained on all splits but one and tested on that one: on each fold in turn, or on the
test split where there is one. The score of a task is the mean over the splits it is tested on.

One label per clip: logistic regression on scene embeddings, accuracy. Any number of labels: ridge regression of all of them at
once, mean average precision over labels; of clips on scene embeddings, of events on the timestamp embeddings of every 100th
millisecond (which says what is heard when, not where exactly it begins, as HEAR's own score does).

Good for comparing models while developing; it is not HEAR's own protocol.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

import click
import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ..audio import read_audio
from ..checkpoint import load_embedder
from ..commands import Command
from ..config import preset
from ..errors import HearMwmaeError
from .baselines import LogMel, untrained
from .hear_task import Event, Task, read_task

#: Strong regularisation: there are a few hundred clips and about a thousand dimensions.
INVERSE_REGULARISATION = 0.05
#: Of ridge regression, for each row: as much as 0.3 of a dimension's variance.
SHRINKAGE = 0.3
#: Milliseconds between the moments at which events are probed; the first is half as far from the beginning.
MOMENTS = 100.0


class Embeds(Protocol):
    """What is probed; see `Embedder` for shapes and units."""

    sample_rate: int

    def scene_embeddings(self, audio: Tensor) -> Tensor: ...

    def timestamp_embeddings(self, audio: Tensor) -> tuple[Tensor, Tensor]: ...


def probe(task: Task, model: Embeds) -> list[float]:
    """Accuracy or mean average precision, 0 to 1, on each tested split; :func:`metric` says which."""
    if not task.multilabel:
        return [float(right.mean()) for right in probe_clips(task, model)]
    splits = [_rows(task, split, model) for split in task.splits]
    scores = []
    for held_out in task.tested:
        x, y = (np.concatenate(part) for part in zip(*(split for n, split in enumerate(splits) if n != held_out), strict=True))
        ranking = make_pipeline(StandardScaler(), Ridge(SHRINKAGE * len(x))).fit(x, y).predict(splits[held_out][0])
        truth = splits[held_out][1]
        heard = truth.any(axis=0)  # a label that is not there has no precision
        if not heard.any():
            raise HearMwmaeError(f"{task.folder}: no event of a tested split holds at any {MOMENTS:.0f} ms")
        scores.append(float(average_precision_score(truth[:, heard], ranking[:, heard])))
    return scores


def metric(task: Task) -> str:
    """What :func:`probe` measures."""
    return "mAP" if task.multilabel else "accuracy"


def probe_clips(task: Task, model: Embeds) -> list[np.ndarray]:
    """For each tested split of a task with one label per clip, which of its clips were classified rightly, (clips,) bool."""
    if task.multilabel:
        raise HearMwmaeError(f"{task.folder}: a clip is right or wrong only where it has one label")
    x = [np.stack([_scene(path, model) for path in split]) for split in task.splits]
    y = [np.array([label for (label,) in split.values()]) for split in task.splits]
    rightly = []
    for held_out in task.tested:
        train = [number for number in range(len(x)) if number != held_out]
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_REGULARISATION, max_iter=2000))
        classifier.fit(np.concatenate([x[n] for n in train]), np.concatenate([y[n] for n in train]))
        rightly.append(classifier.predict(x[held_out]) == y[held_out])
    return rightly


def _rows(task: Task, split: dict[Path, list], model: Embeds) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (rows, D) and labels (rows, labels) bool of all clips of a split, or of the moments of its clips."""
    labels = np.array(task.labels)
    if not task.events:
        return np.stack([_scene(path, model) for path in split]), np.stack([np.isin(labels, found) for found in split.values()])
    x, y = zip(*(_moments(path, events, labels, model) for path, events in split.items()), strict=True)
    return np.concatenate(x), np.concatenate(y)


def _scene(path: Path, model: Embeds) -> np.ndarray:
    return model.scene_embeddings(_audio(path, model))[0].cpu().numpy()


def _audio(path: Path, model: Embeds) -> Tensor:
    """(1, samples) at the model's rate."""
    audio = read_audio(path, model.sample_rate)
    if not audio.isfinite().all():
        raise HearMwmaeError(f"{path} holds NaN or infinity")
    return audio[None]


def _moments(path: Path, events: list[Event], labels: np.ndarray, model: Embeds) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings nearest to regular moments, the same ones for every model, and the labels that hold then."""
    audio = _audio(path, model)
    embeddings, times = (part[0].cpu().numpy() for part in model.timestamp_embeddings(audio))
    moments = np.arange(MOMENTS / 2, 1000 * audio.shape[1] / model.sample_rate, MOMENTS)
    nearest = np.searchsorted((times[1:] + times[:-1]) / 2, moments)
    held = np.zeros((len(moments), len(labels)), bool)
    for label, start, end in events:
        held[:, labels == label] |= ((start <= moments) & (moments < end))[:, None]
    return embeddings[nearest], held


@click.command(cls=Command, help=__doc__)
@click.argument("tasks", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False))
@click.option("--model", default="", help="What load_model takes. Default: the embedded model.")
@click.option("--untrained", "untrained_preset", metavar="PRESET", help="Probe this preset at its random initialisation instead.")
@click.option("--log-mel", is_flag=True, help="Probe statistics of the normalised log-mel spectrogram instead.")
@click.option("--pooling", help="Statistics that make a scene: mean, std, max, joined by +. Default: the model's own.")
def main(tasks: tuple[str, ...], model: str, untrained_preset: str | None, log_mel: bool, pooling: str | None) -> None:
    if bool(model) + bool(untrained_preset) + log_mel > 1:
        raise click.UsageError("--model, --untrained and --log-mel exclude each other")
    if log_mel:
        probed = LogMel(pooling or "mean+std")
    elif untrained_preset:
        probed = untrained(dataclasses.replace(preset(untrained_preset), pooling=pooling or "mean"))
    else:
        probed = load_embedder(model, pooling=pooling)
    for task in map(read_task, tasks):
        scores = np.array(probe(task, probed)) * 100
        each = " ".join(f"{score:.1f}" for score in scores)
        click.echo(f"{task.folder.resolve().name:32} {scores.mean():5.1f}   {metric(task):8} (splits: {each})")


if __name__ == "__main__":
    main()
