"""One page about models and their scores, self-contained: no script, no network.

The page is report.html, a Jinja2 template.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hear_mwmae.files import read_json
from hear_mwmae.tasks import METADATA, Task, read_task

from .results import ABOUT, EMBEDDINGS, find_results
from .scores import ModelScores, columns, filled, rows
from .tasks import chance, tested_clips

#: Colors of the models' bars, safe for color-blind readers (Okabe and Ito).
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")


def page(models: dict[str, ModelScores], protocol: str, folders: dict[str, Path]) -> str:
    """The HTML of a report.

    Args:
        models: scores by the names of the models.
        folders: the results of the models.
    """
    tasks = _read_tasks(folders)
    heads = columns(models)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html").render(
        names=[(name, _color(number)) for number, name in enumerate(models)],
        scores=rows(models, protocol),
        spreads=_spreads(models),
        tasks=[_describe(tasks[name], head) for name, head in heads.items() if name in tasks],
        charts=[_chart(models, name, head, tasks.get(name)) for name, head in heads.items()],
        models=_models(folders),
        about=_about(folders, protocol),
    )


def _read_tasks(folders: dict[str, Path]) -> dict[str, Task]:
    """The tasks of which embeddings are still there, by folder name."""
    found = {}
    for results in folders.values():
        for file in results.glob(f"*/{EMBEDDINGS}/{METADATA}"):
            found[file.parents[1].name] = read_task(file.parent, audio=False)
    return found


def _describe(task: Task, head: str) -> dict[str, str]:
    level = chance(task)
    folds = len(task.tested)
    return {
        "task": head,
        "metric": task.metadata["evaluation"][0],
        "tested clips": f"{tested_clips(task):,}",
        "labels": f"{len(task.labels)}",
        "tested on": f"{folds} folds" if folds > 1 else "the test split",
        "chance": "unknown" if level is None else f"{level:.1f}",
    }


def _spreads(models: dict[str, ModelScores]) -> list[dict[str, str]]:
    """A row per model: the standard deviation of its score over the folds of each task."""
    table = []
    for model, scores in models.items():
        row = {"model": model}
        for name, head in columns(models).items():
            spread = scores[name].spread if name in scores else None
            row[head] = "" if spread is None else f"{spread:.1f}"
        table.append(row)
    shown = filled(table)
    return shown if len(shown[0]) > 1 else []


def _embedded(results: Path) -> list[dict[str, Any]]:
    return [read_json(file) for file in sorted(results.glob(f"*/{EMBEDDINGS}/{ABOUT}"))]


def _models(folders: dict[str, Path]) -> list[dict[str, str]]:
    """What each model is."""
    table = []
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
            if row not in table:  # all tasks have one model, but perhaps two sizes: clips, moments
                table.append(row)
    return filled(table)


def _about(folders: dict[str, Path], protocol: str) -> dict[str, str]:
    """Date, protocol, versions, machines and computing time of the results."""
    embedded = [about for results in folders.values() for about in _embedded(results)]
    predicted = []
    for results in folders.values():
        for found in find_results(results, protocol).values():
            predicted += [result.read() for result in found]
    versions: dict[str, set[str]] = {}
    for one in embedded + predicted:
        for name, version in one["versions"].items():
            versions.setdefault(name, set()).add(version)
    days = sorted(one["made"][:10] for one in predicted)
    hours = sum(about["audio_seconds"] for about in embedded) / 3600
    embedding = sum(about["seconds"] for about in embedded) / 60
    predicting = sum(result["seconds"] for result in predicted) / 60
    return {
        "date": " to ".join(dict.fromkeys([days[0], days[-1]])),
        "protocol": protocol,
        "versions": ", ".join(
            f"{name} {' and '.join(sorted(of))}" for name, of in versions.items()
        ),
        "machines": "; ".join(dict.fromkeys(one["machine"] for one in embedded + predicted)),
        "time": f"{embedding:.1f} min for {hours:.2f} h of audio, "
        f"{predicting:.1f} min for {len(predicted)} predictions",
    }


def _chart(
    models: dict[str, ModelScores], name: str, head: str, task: Task | None
) -> dict[str, Any]:
    """A bar per model with its interval, in percent of the width."""
    bars = []
    for number, scores in enumerate(models.values()):
        score = scores.get(name)
        half_width = score.half_width or 0 if score else 0
        mean = score.mean if score else 0
        low = max(mean - half_width, 0)
        bars.append(
            {
                "color": _color(number),
                "mean": mean,
                "low": low,
                "width": min(mean + half_width, 100) - low,
                "text": str(score or "not computed"),
            }
        )
    return {"title": head, "bars": bars, "chance": chance(task) if task else None}


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]
