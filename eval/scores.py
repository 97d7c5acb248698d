"""Results on disk -> mean and interval per task, the paper's overall score s(m), and tables beside
published rows.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats
from tabulate import tabulate

from .results import EMBEDDINGS, predictions, tested_clips
from .tasks import registry

REFERENCES_CSV = Path(__file__).with_name("references.csv")
CONFIDENCE = 0.95

#: s(m) = the weighted sum of the ten scores in percent, plus a constant: a linear fit over 32 rows
#: of the paper's appendix, with a root mean square error of 0.02. Reconstructed, not the paper's
#: own formula.
S_WEIGHTS = {
    "BO": 0.21585,
    "CD": 0.22146,
    "ESC": 0.11205,
    "LC": 0.24387,
    "Mri-S": 0.23927,
    "Mri-T": 0.15468,
    "NS": 0.14032,
    "SC": 0.10615,
    "F50K": 0.17347,
    "VL": 0.17423,
}
S_CONSTANT = -47.98116
#: Protocol of the scores that it was fitted to.
S_PROTOCOL = "paper"


@dataclass(frozen=True)
class Score:
    """A task's score over seeds, in percent."""

    mean: float
    half_width: float | None  #: of the 95 % Student-t interval of the mean; None with one seed
    values: dict[int, float]  #: by seed
    clips: int | None = None  #: that the task tests, where known

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + (f"±{self.half_width:.1f}" if self.half_width is not None else "")


def primary_score(scores: dict) -> float:
    """heareval's first score of a task, in percent: the mean over the folds, or the score of the
    test split.

    An event model that finds nothing has no F-measure, which counts as 0. (The kit's own mean
    excludes such a fold.)
    """
    tested = [100 * split["test_score"] for split in scores.values() if isinstance(split, dict) and "test_score" in split]
    return float(np.mean([0.0 if math.isnan(score) else score for score in tested]))


def summarise(values: dict[int, float], clips: int | None = None) -> Score:
    """Mean and Student-t interval of one value per seed."""
    numbers = list(values.values())
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(numbers) - 1)
    half_width = float(quantile * stats.sem(numbers)) if len(numbers) > 1 else None
    return Score(float(np.mean(numbers)), half_width, values, clips)


def read_scores(results: Path, protocol: str) -> dict[str, Score]:
    """Task folder name -> score, of a model's results under one protocol.

    Raises HearMwmaeError if a result belongs to other embeddings than the present ones.
    """
    return {
        name: summarise({found.seed: primary_score(found.scores()) for found in seeds}, tested_clips(results / name / EMBEDDINGS))
        for name, seeds in predictions(results, protocol).items()
    }


def overall(scores: dict[str, Score]) -> float | None:
    """s(m), reconstructed; None unless all ten tasks of the paper have scores."""
    keys = {task.folder: task.key for task in registry().values() if task.in_paper}
    if not keys.keys() <= scores.keys():
        return None
    return S_CONSTANT + sum(S_WEIGHTS[key] * scores[folder].mean for folder, key in keys.items())


def references() -> list[dict[str, str]]:
    """Published rows: name, protocol, seeds, a cell per task of the registry, s and source."""
    with open(REFERENCES_CSV, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def columns(models: dict[str, dict[str, Score]]) -> dict[str, str]:
    """Task folder -> short name, the paper's tasks in its order and then the others."""
    known = registry()
    found = {folder for scores in models.values() for folder in scores}
    order = [folder for folder in known if folder in found] + sorted(found - known.keys())
    keys = {task.key for task in known.values()}
    # A user's folder with the short name of a paper's task is not that task.
    return {folder: known[folder].key if folder in known else folder + "/" * (folder in keys) for folder in order}


def rows(models: dict[str, dict[str, Score]], protocol: str) -> list[dict[str, str]]:
    """A row per model, and the published ones of the same protocol and tasks, with a cell
    per task.
    """
    heads = columns(models)
    table = [own_row(name, scores, protocol, heads) for name, scores in models.items()]
    for row in references():
        cells = {head: row.get(head) or "" for head in heads.values()}
        if row["protocol"] == protocol and any(cells.values()):
            about = {"model": row["name"], "protocol": protocol, "seeds": row["seeds"]}
            table.append({**about, **cells, "s(m)": row["s"], "source": row["source"]})
    return table


def own_row(name: str, scores: dict[str, Score], protocol: str, heads: dict[str, str]) -> dict[str, str]:
    """The row of a model that was scored here; tasks with fewer seeds than others are named beside
    the number of seeds.
    """
    counts = {head: len(scores[folder].values) for folder, head in heads.items() if folder in scores}
    usual = max(counts.values())
    short = ", ".join(f"{head} {count}" for head, count in counts.items() if count < usual)
    seeds = f"{usual}" + f" ({short})" * bool(short)
    value = overall(scores) if protocol == S_PROTOCOL else None
    cells = {head: str(scores[folder]) if folder in scores else "" for folder, head in heads.items()}
    s = f"≈{value:.1f}" if value is not None else ""
    return {"model": name, "protocol": protocol, "seeds": seeds, **cells, "s(m)": s, "source": "computed here"}


def markdown(models: dict[str, dict[str, Score]], protocol: str) -> str:
    """:func:`rows` as a Markdown table. "≈" marks reconstructed s(m)."""
    return tabulate(rows(models, protocol), headers="keys", tablefmt="github", disable_numparse=True)


def table_csv(models: dict[str, dict[str, Score]], protocol: str) -> str:
    """:func:`rows` as CSV."""
    table, text = rows(models, protocol), io.StringIO(newline="")
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def compare(one: Score, other: Score) -> tuple[float, float | None]:
    """Difference of the means, and p of a paired t-test, over the seeds that both have.

    Without two common seeds, it is the difference over all seeds, and p is None. p is also None if
    all seeds differ equally.
    """
    seeds = sorted(one.values.keys() & other.values.keys())
    if len(seeds) < 2:
        return other.mean - one.mean, None
    ones, others = (np.array([score.values[seed] for seed in seeds]) for score in (one, other))
    p = None if np.ptp(others - ones) < 1e-9 else float(stats.ttest_rel(others, ones).pvalue)
    return float((others - ones).mean()), p
