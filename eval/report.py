"""One page about models and their scores, self-contained: no script, no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
from jinja2 import Template

from hear_mwmae.files import read_json

from .results import ABOUT, EMBEDDINGS, find_results
from .scores import ModelScores, filled, table

TEMPLATE = Path(__file__).with_name("report.html")


def page(models: dict[str, ModelScores], protocol: str, folders: dict[str, Path]) -> str:
    """The HTML of a report.

    Args:
        models: scores by the names of the models.
        folders: the results of the models.
    """
    template = Template(TEMPLATE.read_text(encoding="utf-8"), autoescape=True)
    with pandas.option_context("display.max_colwidth", None):
        return template.render(
            protocol=protocol,
            scores=table(models, protocol),
            models=_models(folders),
            versions=_versions(folders, protocol),
        )


def _embedded(results: Path) -> list[dict[str, Any]]:
    return [read_json(file) for file in sorted(results.glob(f"*/{EMBEDDINGS}/{ABOUT}"))]


def _models(folders: dict[str, Path]) -> pandas.DataFrame:
    """What each model is, of which embeddings are still there: a row for all of its tasks."""
    found = []
    for name, results in folders.items():
        for about in _embedded(results):
            row = {
                "model": name,
                "module": about["module"],
                "loaded from": about["model"] or "its default",
                "options": ", ".join(f"{key}={value}" for key, value in about["options"].items()),
                "pooling": about["pooling"] or "",
                "embedding size": f"{about['embedding_size']:,}",
                "weights, SHA-256": about["weights"][:16],
            }
            found.append(row)
    return filled(pandas.DataFrame(found).drop_duplicates())


def _versions(folders: dict[str, Path], protocol: str) -> dict[str, str]:
    """The versions of every library that made the results, and the days of the predictions."""
    versions: dict[str, set[str]] = {}
    for results in folders.values():
        found = find_results(results, protocol).values()
        predicted = [result.read() for task in found for result in task]
        for one in [*_embedded(results), *predicted]:
            for name, version in one["versions"].items():
                versions.setdefault(name, set()).add(version)
        for one in predicted:
            versions.setdefault("predicted on", set()).add(one["made"][:10])
    return {name: ", ".join(sorted(of)) for name, of in versions.items()}
