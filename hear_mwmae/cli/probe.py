"""`hear-mwmae probe`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import needs_extra
from .options import DEVICE, POOLING, TASKS, Command, models_option, named_models

if TYPE_CHECKING:
    from ..probe import Classifier

MORE_MODELS = (
    " Also 'untrained' (the architecture of the first trained model, with random weights) and "
    "'log-mel' (statistics of its input)."
)


@click.command(cls=Command, short_help="Linear probes of models on HEAR tasks, with intervals.")
@TASKS
@models_option(MORE_MODELS)
@click.option("--baselines", is_flag=True, help="Also the models 'untrained' and 'log-mel'.")
@POOLING
@click.option(
    "--classifier",
    type=click.Choice(["logistic", "ridge"]),
    default="logistic",
    show_default=True,
    help="Of the embeddings.",
)
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

    TASKS are task folders, or folders of them, with one label per clip. A score is accuracy in
    percent, the mean over the tested splits. Each score has a 95 % bootstrap interval over the
    tested clips. All models have one pooling, and are scored on the same draws of the clips, so the
    interval of a difference of means is paired.

    \b
    hear-mwmae probe tasks/ --model run/model --baselines
    """
    from tabulate import tabulate

    from ..baselines import BASELINES, load_models
    from ..probe import read_tasks, score_models, table

    sources = named_models(models)
    if baselines:
        for name in BASELINES:
            sources.setdefault(name, name)
    read = read_tasks(tasks)
    probed, pooling = load_models(sources, pooling, device)
    rows = table(read, probed, score_models(read, probed, classifier))
    click.echo(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))
    click.echo(
        "\nAccuracy in percent, with 95 % intervals over clips. "
        f"Pooling {pooling}, classifier {classifier}."
    )
