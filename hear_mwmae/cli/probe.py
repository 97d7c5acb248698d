"""`hear-mwmae probe` and `hear-mwmae task`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..extras import needs_extra
from .options import (
    CLASSIFIER,
    DEVICE,
    POOLING,
    TASKS,
    Command,
    models_option,
    named_models,
    out_option,
)

if TYPE_CHECKING:
    from ..probe import Classifier

MORE_MODELS = (
    " Also 'log-mel' (statistics of the input), 'untrained' (random weights of the embedded "
    "model's architecture) and 'untrained:PRESET'."
)


@click.command(cls=Command, short_help="Linear probes of models on HEAR tasks, with intervals.")
@TASKS
@models_option(MORE_MODELS)
@click.option(
    "--baselines",
    is_flag=True,
    help="Also the first model's architecture without training, and statistics of its input.",
)
@POOLING
@CLASSIFIER
@DEVICE
@needs_extra("probe", "probing")
def probe(
    tasks: tuple[Path, ...],
    models: tuple[str, ...],
    baselines: bool,
    pooling: str | None,
    classifier: Classifier,
    device: str,
) -> None:
    """Probe models on HEAR tasks with a linear classifier: seconds to minutes, not HEAR's own
    protocol.

    TASKS are task folders, or folders of them. A score is accuracy, or mean average precision if
    clips have several labels, in percent: the mean over the tested splits. Each score has a 95 %
    bootstrap interval over the tested clips. All models have one pooling, and are scored on the
    same draws of the clips, so the interval of a difference of means is paired.

    \b
    hear-mwmae probe tasks/ --model run/model --baselines
    """
    from tabulate import tabulate

    from ..baselines import load_models
    from ..probe import score_models, table
    from ..tasks import find_tasks, read_task

    sources = named_models(models)
    read = [read_task(folder) for folder in find_tasks(tasks)]
    probed, pooling = load_models(sources, pooling, device, baselines)
    rows = table(read, probed, score_models(read, probed, classifier))
    click.echo(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))
    click.echo(f"\nPooling {pooling}, classifier {classifier}. Intervals: 95 %, over clips.")


@click.command(cls=Command, short_help="Make a HEAR task of your own audio.")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@out_option("Task folder to make.", folder=True)
@click.option(
    "--folds",
    type=click.IntRange(3),
    default=5,
    show_default=True,
    help="Folds to deal the clips into, each label evenly, if SOURCE says nothing.",
)
@needs_extra("probe", "making a task")
def task(source: Path, out: Path, folds: int) -> None:
    """Make a task that `hear-mwmae probe` and `python -m eval` read, of your own audio.

    SOURCE is a folder with a folder of audio files for each label, or a .csv with the columns path
    and label. Its paths are relative to the .csv. It may have a column fold (any three names or
    more; clips of one recording or one speaker belong into one fold), or a column split with
    train, valid and test. The audio is converted to 16 kHz mono and keeps its length.

    \b
    hear-mwmae task sounds/ -o tasks/sounds
    hear-mwmae task clips.csv -o tasks/clips
    """
    from ..make_task import make_task

    made = make_task(source, out, folds)
    clips = [len(split) for split in made.splits]
    splits = ", ".join(
        f"{name} {count}" for name, count in zip(made.split_names, clips, strict=True)
    )
    click.echo(f"{sum(clips)} clips, {len(made.labels)} labels ({splits}) -> {out}")
