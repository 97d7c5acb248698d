"""`hear-mwmae probe`."""

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
