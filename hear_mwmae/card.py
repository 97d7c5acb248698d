"""Model cards: the README.md of a model directory, from config.json, card.json and
card_template.md.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from pydantic import BaseModel, ConfigDict

from .config import PAPERS_POOLING, describe_windows
from .errors import checked
from .files import read_json
from .hub import CONFIG_NAME
from .weights import read_config

CARD_SOURCE = "card.json"

_TEMPLATE = Path(__file__).with_name("card_template.md")
#: 100 columns, of which a list takes two.
_WRAPPER = textwrap.TextWrapper(98, break_long_words=False, break_on_hyphens=False)


class Result(BaseModel):
    """A row of results; further columns are numbers."""

    model_config = ConfigDict(extra="allow", strict=True)

    task: str
    metric: str
    value: float


class CardSource(BaseModel):
    """card.json: what the configuration cannot say of a model. Texts are Markdown."""

    model_config = ConfigDict(extra="forbid", strict=True)

    license: str | None = None  #: the Hub's identifier
    description: str = ""
    datasets: list[str] = []
    data: str = ""
    training: str = ""
    results: list[Result] = []
    results_command: str = ""
    limits: list[str] = []


def model_card(directory: str | Path, load_from: str) -> str:
    """The card as Markdown with the Hub's metadata header.

    Args:
        directory: with ``config.json`` and, optionally, ``card.json``: see `CardSource`.
        load_from: the argument of ``load_model``: org/repo on the Hub, a registered name, or a
            folder.
    """
    config = read_config(Path(directory) / CONFIG_NAME)
    file = Path(directory) / CARD_SOURCE
    source: CardSource = checked(CardSource, read_json(file) if file.is_file() else {}, file)
    name = load_from.split("/")[-1]
    tags = ["audio", "audio-embeddings", "self-supervised", "masked-autoencoder", config.kind]
    results = [
        EvalResult(
            task_type="audio-classification",
            dataset_type=row.task.lower().replace(" ", "-"),
            dataset_name=row.task,
            metric_type=row.metric,
            metric_value=row.value,
        )
        for row in source.results
    ]
    header = ModelCardData(
        library_name="hear-mwmae",
        pipeline_tag="feature-extraction",
        tags=[*tags, "hear-benchmark"],
        license=source.license,
        datasets=source.datasets or None,
        model_name=name,
        eval_results=results or None,
    )
    card = ModelCard.from_template(
        header,
        template_path=str(_TEMPLATE),
        name=name,
        load_from=load_from,
        source=source.model_dump(),
        config=config,
        windows=describe_windows(config.decoder.window_sizes),
        papers_pooling=PAPERS_POOLING,
        wrap=_wrap,
    )
    return f"{card}\n"


def _wrap(markdown: str) -> str:
    """Long lines broken at spaces, but for the rows of tables."""
    lines = []
    for line in markdown.split("\n"):
        lines.append(line if line.startswith("|") else _WRAPPER.fill(line))
    return "\n".join(lines)
