"""One page about models and their scores, self-contained: no script, no network.

The page is report.html, a Jinja2 template.
"""

from __future__ import annotations

import base64
import io
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure

from hear_mwmae.files import read_json

from .results import ABOUT, EMBEDDINGS, predictions
from .scores import Score, columns, compare, rows

#: Colours of the models' bars, safe for colour-blind readers (Okabe and Ito).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
#: Text remains text in the SVG, and equal scores give equal files.
SVG: dict[Any, str] = {"svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif"}


def provenance(results: tuple[Path, ...], protocol: str) -> dict[str, str]:
    """Provenance of the scores: versions, machines and computing time from the results."""
    found = [read_json(one.file) for path in results for task in predictions(path, protocol).values() for one in task]
    embedded = [read_json(file) for path in results for file in path.glob(f"*/{EMBEDDINGS}/{ABOUT}")]
    made = found + embedded
    versions = dict.fromkeys(", ".join(f"{name} {version}" for name, version in one["versions"].items()) for one in made)
    hours, embedding = sum(about["hours"] for about in embedded), sum(about["seconds"] for about in embedded) / 60
    predicting = sum(result["seconds"] for result in found) / 60
    meaning = {"paper": "the authors': one hidden layer of 1024, rate 1e-4", "hear": "the kit's stock grid"}
    return {
        "protocol": f"{protocol} ({meaning[protocol]})",
        "versions": "; ".join(versions),
        "machines": "; ".join(dict.fromkeys(one["machine"] for one in made)),
        "time": f"{embedding:.1f} min for {hours:.2f} h of audio, {predicting:.1f} min for {len(found)} predictions",
    }


def page(models: dict[str, dict[str, Score]], protocol: str, about: dict[str, str]) -> str:
    """The HTML of a report."""
    templates = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    charts = []
    for folder, head in columns(models).items():
        scores = [found.get(folder) for found in models.values()]
        shown = ", ".join(f"{name} {score or 'not computed'}" for name, score in zip(models, scores, strict=True))
        charts.append((f"{head}: {shown}", base64.b64encode(chart(head, scores).encode()).decode()))
    return environment.get_template("report.html").render(
        names=[(name, _colour(number)) for number, name in enumerate(models)],
        scores=rows(models, protocol),
        charts=charts,
        comparisons=comparisons(models),
        about=about,
    )


def chart(title: str, scores: list[Score | None]) -> str:
    """A bar per model with its interval, an SVG."""
    figure = Figure(figsize=(4.6, 0.4 + 0.25 * len(scores)), layout="constrained")
    axis = figure.subplots()
    means = np.array([score.mean if score else 0.0 for score in scores])
    half_widths = np.array([(score.half_width if score else None) or 0.0 for score in scores])
    within = np.stack([np.minimum(half_widths, means), np.minimum(half_widths, 100 - means)])  # the intervals end at 0 and 100 %
    axis.barh(range(len(scores)), means, xerr=within, ecolor="#888", color=[_colour(number) for number in range(len(scores))])
    axis.set_yticks(range(len(scores)), [str(score or "not computed") for score in scores])
    axis.yaxis.tick_right()
    axis.set(xlim=(0, 100), xticks=[])
    axis.set_title(title.replace("$", r"\$"), loc="left", weight="bold")
    axis.invert_yaxis()
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    with rc_context(SVG), io.StringIO() as stream:
        figure.savefig(stream, format="svg", metadata={"Date": None})
        return stream.getvalue()


def comparisons(models: dict[str, dict[str, Score]]) -> list[dict[str, str]]:
    """A row for every pair of models: differences, and p of a paired t-test over the seeds."""
    table = []
    for (one, ones), (other, others) in combinations(models.items(), 2):
        row = {"": f"{other} - {one}"}
        for folder, head in columns(models).items():
            row[head] = ""
            if folder in ones and folder in others:
                difference, p = compare(ones[folder], others[folder])
                row[head] = f"{difference:+.1f}" + (f" (p = {p:.2g})" if p is not None else "")
        table.append(row)
    return table


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
