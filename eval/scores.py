"""Results on disk -> mean and interval per task, the paper's overall score s(m), and tables beside
published rows.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats
from tabulate import tabulate

from .results import find_results
from .tasks import registry

REFERENCES_CSV = Path(__file__).with_name("references.csv")
CONFIDENCE = 0.95

#: s(m) = the sum of the ten scores in percent, weighted by ``s_weight`` of tasks.csv, plus this: a
#: linear fit over 32 rows of the paper's appendix, with a root mean square error of 0.02.
#: Reconstructed, not the paper's own formula.
S_CONSTANT = -47.98116
#: Protocol of the scores that it was fitted to.
S_PROTOCOL = "paper"


@dataclass(frozen=True)
class TaskScore:
    """A model's score on a task over seeds of the predictors, in percent."""

    mean: float
    half_width: float | None  #: of the 95 % Student-t interval of the mean; None with one seed
    values: dict[int, float]  #: by seed
    spread: float | None = None  #: standard deviation over the tested folds; None with one

    def __str__(self) -> str:
        if self.half_width is None:
            return f"{self.mean:.1f}"
        return f"{self.mean:.1f}±{self.half_width:.1f}"


#: By the folder name of the task.
ModelScores = dict[str, TaskScore]


def split_scores(scores: dict) -> list[float]:
    """heareval's first score of every fold, or of the test split, in percent.

    An event model that finds nothing has no F-measure, which counts as 0. (The kit's own mean
    excludes such a fold.)
    """
    tested = []
    for split in scores.values():
        if isinstance(split, dict) and "test_score" in split:
            value = split["test_score"]
            tested.append(0.0 if math.isnan(value) else 100 * value)
    return tested


def mean_score(scores: dict) -> float:
    """The mean of :func:`split_scores`: heareval's score of a task."""
    return float(np.mean(split_scores(scores)))


def summarize(values: dict[int, float], spread: float | None = None) -> TaskScore:
    """Mean and Student-t interval of one value per seed."""
    numbers = list(values.values())
    half_width = None
    if len(numbers) > 1:
        quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(numbers) - 1)
        half_width = float(quantile * stats.sem(numbers))
    return TaskScore(float(np.mean(numbers)), half_width, values, spread)


def read_scores(results: Path, protocol: str) -> ModelScores:
    """Task folder name -> score, of a model's results under one protocol.

    Raises HearMwmaeError if a result belongs to other embeddings than the present ones.
    """
    scores = {}
    for name, found in find_results(results, protocol).items():
        by_seed = {one.seed: split_scores(one.read()["scores"]) for one in found}
        folds = np.mean(list(by_seed.values()), axis=0)
        spread = float(np.std(folds, ddof=1)) if len(folds) > 1 else None
        means = {seed: float(np.mean(values)) for seed, values in by_seed.items()}
        scores[name] = summarize(means, spread)
    return scores


def overall(scores: ModelScores) -> float | None:
    """s(m), reconstructed; None unless all ten tasks of the paper have scores."""
    weights = {name: row["s_weight"] for name, row in registry().items() if row["s_weight"]}
    if not weights.keys() <= scores.keys():
        return None
    return S_CONSTANT + sum(float(weights[name]) * scores[name].mean for name in weights)


def references() -> list[dict[str, str]]:
    """Published rows: name, protocol, seeds, a cell per task of the registry, s and source."""
    with open(REFERENCES_CSV, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def columns(models: dict[str, ModelScores]) -> dict[str, str]:
    """Task folder -> short name, the paper's tasks in its order and then the others."""
    known = registry()
    found = {folder for scores in models.values() for folder in scores}
    heads = {folder: row["key"] for folder, row in known.items() if folder in found}
    keys = {row["key"] for row in known.values()}
    for folder in sorted(found - known.keys()):
        # A user's folder with the short name of a paper's task is not that task.
        heads[folder] = f"{folder}/" if folder in keys else folder
    return heads


def rows(models: dict[str, ModelScores], protocol: str) -> list[dict[str, str]]:
    """A row per model, and the published ones of the same protocol and tasks, with a cell per
    task. "≈" marks reconstructed s(m). Columns that are empty in all rows are left out.
    """
    heads = columns(models)
    table = [_own_row(name, scores, protocol, heads) for name, scores in models.items()]
    for row in references():
        cells = {head: row.get(head) or "" for head in heads.values()}
        if row["protocol"] == protocol and any(cells.values()):
            about = {"model": row["name"], "seeds": row["seeds"]}
            table.append({**about, **cells, "s(m)": row["s"], "source": row["source"]})
    return filled(table)


def filled(table: list[dict[str, str]]) -> list[dict[str, str]]:
    """The table without the columns that are empty in all rows."""
    heads = [head for head in (table[0] if table else ()) if any(row[head] for row in table)]
    return [{head: row[head] for head in heads} for row in table]


def _own_row(
    name: str, scores: ModelScores, protocol: str, heads: dict[str, str]
) -> dict[str, str]:
    """The row of a model that was scored here; tasks with fewer seeds than others are named beside
    the number of seeds.
    """
    counts = {head: len(scores[task].values) for task, head in heads.items() if task in scores}
    usual = max(counts.values())
    fewer = ", ".join(f"{head} {count}" for head, count in counts.items() if count < usual)
    cells = {head: str(scores.get(task, "")) for task, head in heads.items()}
    value = overall(scores) if protocol == S_PROTOCOL else None
    return {
        "model": name,
        "seeds": f"{usual} ({fewer})" if fewer else f"{usual}",
        **cells,
        "s(m)": "" if value is None else f"≈{value:.1f}",
        "source": "",
    }


def markdown(table: list[dict[str, str]]) -> str:
    """A Markdown table."""
    return tabulate(table, headers="keys", tablefmt="github", disable_numparse=True)
