"""Linear probes on HEAR-format tasks: seconds, where the whole evaluation kit takes hours.

    python -m hear_mwmae.training.probe TASK_DIR... [--model MODEL | --untrained PRESET | --log-mel]

A logistic regression on standardised scene embeddings, trained on all splits but one and tested on that one: on each fold in
turn, or on the test split where there is one. The score of a task is the mean accuracy over the splits it is tested on. Tasks
are those of scenes with one label per clip. Good for comparing models while developing; it is not HEAR's own protocol.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ..audio import read_audio
from ..checkpoint import load_embedder
from ..commands import Command
from ..config import FrontendConfig, ModelConfig, preset
from ..embedder import Embedder
from ..frontend import LogMelFrontend

#: Strong regularisation: there are a few hundred clips and about a thousand dimensions.
INVERSE_REGULARISATION = 0.05

SAMPLE_RATE = 16000

Embed = Callable[[Tensor], Tensor]


def probe(task_dir: str | Path, embed: Embed) -> list[float]:
    """Accuracy on each tested split of a single-label HEAR task folder (task_metadata.json, <split>.json, 16000/<split>/).

    Args:
        embed: (1, samples) float32 at 16 kHz -> (1, D).
    """
    return [float(right.mean()) for right in probe_clips(task_dir, embed)]


def probe_clips(task_dir: str | Path, embed: Embed) -> list[np.ndarray]:
    """As :func:`probe`, but for each split which of its clips were classified rightly, (clips,) bool."""
    splits, tested = read_task(task_dir)
    features, labels, folds = [], [], []
    for fold, clips in enumerate(splits):
        for path, label in clips.items():
            features.append(embed(read_audio(path, SAMPLE_RATE)[None])[0].numpy())
            labels.append(label)
            folds.append(fold)
    x, y, fold = np.stack(features), np.array(labels), np.array(folds)
    rightly = []
    for held_out in tested:
        train, test = fold != held_out, fold == held_out
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_REGULARISATION, max_iter=2000)).fit(
            x[train], y[train]
        )
        rightly.append(classifier.predict(x[test]) == y[test])
    return rightly


def read_task(task_dir: str | Path) -> tuple[list[dict[Path, str]], list[int]]:
    """The splits of a task folder, each a label by audio file, and the places of those that are held out in turn: all of them, or
    of train, valid and test the last. Raises ValueError where the probe cannot take it.
    """
    task_dir = Path(task_dir)
    try:
        metadata = json.loads((task_dir / "task_metadata.json").read_text())
        if metadata["embedding_type"] != "scene" or metadata["prediction_type"] != "multiclass":
            raise ValueError("the probe takes scene tasks with one label per clip")
        splits = [json.loads((task_dir / f"{split}.json").read_text()) for split in metadata["splits"]]
        clips = [
            {task_dir / str(SAMPLE_RATE) / split / name: labels[0] for name, labels in clips.items()}
            for split, clips in zip(metadata["splits"], splits, strict=True)
        ]
        if len(clips) < 2 or not all(clips):
            raise ValueError("the probe needs two splits or more, none of them empty")
        if missing := [path for split in clips for path in split if not path.is_file()]:
            raise ValueError(f"no {missing[0].relative_to(task_dir)}, and {len(missing) - 1} more are missing")
        names = metadata["splits"]
        tested = [names.index("test")] if metadata.get("split_mode") == "trainvaltest" else list(range(len(names)))
        for held_out in tested:
            others = {label for number, split in enumerate(clips) if number != held_out for label in split.values()}
            if len(others) < 2:
                raise ValueError(f"beside {names[held_out]}, all clips have the label {others.pop()!r}")
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{task_dir} is not a HEAR task that can be probed: {type(error).__name__}: {error}") from error
    return clips, tested


def log_mel_baseline() -> Embed:
    """Mean and deviation over time of the encoder's input, the normalised log-mel spectrogram: no learning at all."""
    frontend = LogMelFrontend(FrontendConfig())

    def embed(audio: Tensor) -> Tensor:
        std, mean = torch.std_mean(frontend(audio), dim=1)
        return torch.cat([mean, std], dim=1)

    return embed


def untrained_baseline(config: ModelConfig, seed: int = 0) -> Embed:
    """The same encoder at its random initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Embedder(config).scene_embeddings


@click.command(cls=Command, help=__doc__)
@click.argument("tasks", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False))
@click.option("--model", default="", help="What load_model takes. Default: the embedded model.")
@click.option("--untrained", metavar="PRESET", help="Probe this preset at its random initialisation instead.")
@click.option("--log-mel", is_flag=True, help="Probe mean and deviation of the normalised log-mel spectrogram instead.")
def main(tasks: tuple[str, ...], model: str, untrained: str | None, log_mel: bool) -> None:
    if log_mel:
        embed = log_mel_baseline()
    elif untrained:
        embed = untrained_baseline(preset(untrained))
    else:
        embed = load_embedder(model).scene_embeddings
    for task in tasks:
        accuracies = np.array(probe(task, embed)) * 100
        each = " ".join(f"{accuracy:.1f}" for accuracy in accuracies)
        click.echo(f"{Path(task).name:32} {accuracies.mean():5.1f}   (splits: {each})")


if __name__ == "__main__":
    main()
