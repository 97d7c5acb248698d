"""Model cards: renders the README.md of a model directory from config.json, card.json and
card_template.md.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Template

from .checkpoint import CONFIG_NAME, read_config
from .config import PAPERS_POOLING, describe_windows
from .errors import HearMwmaeError
from .files import read_json

CARD_SOURCE = "card.json"

_KEYS = {
    "license": str,
    "description": str,
    "datasets": list,
    "data": str,
    "training": str,
    "results": list,
    "results_command": str,
    "limits": list,
}

#: Jinja2.
_TEMPLATE = Path(__file__).with_name("card_template.md")
#: 100 columns, of which a list takes two.
_WRAPPER = textwrap.TextWrapper(98, break_long_words=False, break_on_hyphens=False)


def _wrap(markdown: str) -> str:
    """Long lines broken at spaces, but for the rows of tables."""
    lines = markdown.split("\n")
    return "\n".join(line if line.startswith("|") or len(line) <= _WRAPPER.width else _WRAPPER.fill(line) for line in lines)


def model_card(directory: str | Path, load_from: str) -> str:
    """The card as Markdown with the Hub's metadata header.

    The content comes from ``config.json`` and the optional ``card.json``: an object with any of
    ``license`` (the Hub's identifier), ``description``, ``datasets`` (list), ``data`` and
    ``training`` (Markdown), ``results`` (list of objects with task, metric, value and further
    numeric columns), ``results_command`` and ``limits`` (list).

    Args:
        load_from: the argument of ``load_model``: org/repo on the Hub, a registered name, or a
            folder.
    """
    directory = Path(directory)
    config = read_config(directory / CONFIG_NAME)
    source = _read_source(directory / CARD_SOURCE)
    kind = {"mwmae": "MW-MAE", "mae": "MAE"}[config.kind]
    name = load_from.split("/")[-1]
    results = source.get("results", [])
    header = ModelCardData(
        library_name="hear-mwmae",
        pipeline_tag="feature-extraction",
        tags=["audio", "audio-embeddings", "self-supervised", "masked-autoencoder", config.kind, "hear-benchmark"],
        license=source.get("license"),
        datasets=source.get("datasets") or None,
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="audio-classification",
                dataset_type=row["task"].lower().replace(" ", "-"),
                dataset_name=row["task"],
                metric_type=row["metric"],
                metric_value=row["value"],
            )
            for row in results
        ]
        or None,
    )
    template = Template(_TEMPLATE.read_text(encoding="utf-8"), trim_blocks=True)
    return (
        template.render(
            card_data=header.to_yaml(),
            name=name,
            load_from=load_from,
            source=source,
            kind=kind,
            config=config,
            encoder=config.encoder,
            decoder=config.decoder,
            windows=describe_windows(config.decoder.window_sizes),
            papers_pooling=PAPERS_POOLING,
            wrap=_wrap,
        )
        + "\n"
    )


def _read_source(path: Path) -> dict:
    if not path.is_file():
        return {}
    source = read_json(path)
    unknown = sorted(set(source) - set(_KEYS)) if isinstance(source, dict) else source
    if unknown or not isinstance(source, dict):
        raise HearMwmaeError(f"{path}: unknown keys {unknown!r}; it takes {sorted(_KEYS)}")
    for key, value in source.items():
        if not isinstance(value, _KEYS[key]):
            raise HearMwmaeError(f"{path}: {key} must be a {_KEYS[key].__name__}, got {value!r}")
    for row in source.get("results", []):
        named = isinstance(row, dict) and isinstance(row.get("task"), str) and isinstance(row.get("metric"), str)
        if not named or "value" not in row:
            raise HearMwmaeError(f"{path}: a row of results has task and metric, which are strings, and value; got {row!r}")
    return source
