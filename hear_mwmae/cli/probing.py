"""Commands of probing: `probe`, `compare`."""

from __future__ import annotations

from pathlib import Path

import click

from ..extras import needs
from ..probing import Classifier
from .options import CLASSIFIER, DEVICE, POOLING, TASKS, Command, models_option, named_models

BASELINES = (
    " Also 'log-mel' (statistics of the input), 'untrained' (random weights of the embedded model's architecture) and "
    "'untrained:PRESET'."
)

BLOCK_HELP = (
    "Probe the output of this encoder block in place of the embeddings: 0 is the first, -1 the last without its layer norm. "
    "Repeatable."
)


@click.command(cls=Command, short_help="Linear probes of models on HEAR tasks, with intervals.")
@TASKS
@models_option(BASELINES)
@POOLING
@CLASSIFIER
@DEVICE
@click.option("--block", "blocks", type=int, multiple=True, metavar="N", help=BLOCK_HELP)
@click.option("--markdown", is_flag=True, help="Print one Markdown table of all models.")
def probe(
    tasks: tuple[Path, ...],
    models: tuple[str, ...],
    pooling: str | None,
    classifier: Classifier,
    device: str,
    blocks: tuple[int, ...],
    markdown: bool,
) -> None:
    """Probe models on the HEAR task folders TASKS with a linear classifier: seconds to minutes, not
    HEAR's own protocol.

    A score is accuracy, or mean average precision if clips have several labels, in percent: the
    mean over the tested splits. Each score has a 95 % bootstrap interval over the tested clips. All
    models are scored on the same draws of the clips, so the interval of a difference of means is
    paired.

    \b
    hear-mwmae probe TASKS/* --model run/model --model untrained --model log-mel --pooling mean
    """
    try:
        from tabulate import tabulate

        from ..probing.baselines import load_probed
        from ..probing.blocks import end_at_block
        from ..probing.comparison import score_models, table
        from ..probing.tasks import read_task
    except ModuleNotFoundError as error:
        raise needs("probing", error.name, "train") from error

    sources, read = named_models(models), [read_task(task) for task in tasks]
    probed = {name: load_probed(source, pooling, device) for name, source in sources.items()}
    if blocks:
        probed = {f"{name} block {block}": end_at_block(model, block) for name, model in probed.items() for block in blocks}
    scores = score_models(read, probed, classifier)
    rows = table(read, scores)
    if not markdown:
        for row, scored in zip(rows, scores, strict=False):
            splits = {name: " ".join(f"{split:.1f}" for split in one.splits) for name, one in scored.items()}
            row["splits"] = splits.popitem()[1] if len(splits) == 1 else ", ".join(f"{k}: {v}" for k, v in splits.items())
    click.echo(tabulate(rows, headers="keys", tablefmt="github" if markdown else "plain", disable_numparse=True))


@click.command(cls=Command, short_help="Compare two kinds of models, several pretraining seeds each.")
@TASKS
@click.option("-a", "a", multiple=True, required=True, metavar="MODEL", help="A model of one kind. Repeatable.")
@click.option("-b", "b", multiple=True, required=True, metavar="MODEL", help="A model of the other kind. Repeatable.")
@POOLING
@CLASSIFIER
@DEVICE
def compare(
    tasks: tuple[Path, ...], a: tuple[str, ...], b: tuple[str, ...], pooling: str | None, classifier: Classifier, device: str
) -> None:
    """Compare two kinds of models by linear probes, with several pretraining seeds of each kind.

    TASKS have one label per clip. The 95 % bootstrap intervals draw the seeds of each kind and the
    clips of each split, the same clips for both kinds. With few seeds they are too narrow rather
    than too wide.

    \b
    hear-mwmae compare TASK -a MAE -a MAE_OTHER_SEED -b MWMAE -b MWMAE_OTHER_SEED
    """
    try:
        from ..probing.baselines import load_probed
        from ..probing.comparison import compare_kinds, predict_clips, score
        from ..probing.tasks import read_task
    except ModuleNotFoundError as error:
        raise needs("probing", error.name, "train") from error

    for task in map(read_task, tasks):
        name = f"{task.folder.name:32}"
        kinds = []
        for models in (a, b):
            kinds.append([predict_clips(task, load_probed(model, pooling, device), classifier) for model in models])
            for model, outcomes in zip(models, kinds[-1], strict=True):
                click.echo(f"{name} {score(outcomes, 0).score:5.1f}   {model}")
        for kind, estimate in compare_kinds(kinds[0], kinds[1]).items():
            click.echo("{} {:5} {:5.1f}   [{:.1f}, {:.1f}]".format(name, kind, *estimate))
