"""Results on disk -> mean and interval per task, the paper's overall score s(m), and tables beside published rows."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from .tasks import registry

REFERENCES_CSV = Path(__file__).with_name("references.csv")
CONFIDENCE = 0.95

#: s(m) = the weighted sum of the ten scores in percent, plus a constant: a linear fit over 32 rows of the paper's appendix, with
#: a root mean square error of 0.02. Reconstructed, not the paper's own formula.
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


@dataclass(frozen=True)
class Score:
    """A task's score over seeds, in percent."""

    mean: float
    half_width: float | None  #: of the 95 % Student-t interval of the mean; None with one seed
    values: tuple[float, ...]  #: by seed, in the order of the seeds

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + (f"±{self.half_width:.1f}" if self.half_width is not None else "")


def primary_score(scores: dict) -> float:
    """heareval's first score of a task, in percent: the mean over the folds, or that of the test split."""
    if "aggregated_scores" in scores:
        return 100 * scores["aggregated_scores"]["test_score_mean"]
    return 100 * scores["test"]["test_score"]


def summarise(values: list[float]) -> Score:
    """Mean and Student-t interval of one value per seed."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Score(mean, None, tuple(values))
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)
    return Score(mean, float(quantile * np.std(values, ddof=1) / np.sqrt(count)), tuple(values))


def read_scores(results: Path, protocol: str) -> dict[str, Score]:
    """Task folder name -> score, of a model's results under one protocol."""
    scores = {}
    for folder in sorted(path for path in results.iterdir() if (path / protocol).is_dir()):
        files = sorted((folder / protocol).glob("seed-*.json"), key=lambda path: int(path.stem.removeprefix("seed-")))
        if files:
            scores[folder.name] = summarise([primary_score(json.loads(file.read_text())["scores"]) for file in files])
    return scores


def overall(scores: dict[str, Score]) -> float | None:
    """s(m), reconstructed; None unless all ten tasks of the paper are there."""
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
    return {folder: known[folder].key if folder in known else folder for folder in order}


def rows(models: dict[str, dict[str, Score]], protocol: str) -> list[dict[str, str]]:
    """A row per model, and the published ones of the same protocol and tasks, with a cell per task."""
    heads = columns(models)
    table = []
    for name, scores in models.items():
        seeds = "-".join(str(count) for count in sorted({len(score.values) for score in scores.values()}))
        value = overall(scores)
        cells = {head: str(scores[folder]) if folder in scores else "" for folder, head in heads.items()}
        s = f"{value:.1f}" if value is not None else ""
        table.append({"model": name, "protocol": protocol, "seeds": seeds, **cells, "s(m)": s, "source": "computed here"})
    for row in references():
        cells = {head: row.get(head) or "" for head in heads.values()}
        if row["protocol"] == protocol and any(cells.values()):
            about = {"model": row["name"], "protocol": protocol, "seeds": row["seeds"]}
            table.append({**about, **cells, "s(m)": row["s"], "source": row["source"]})
    return table


def markdown(models: dict[str, dict[str, Score]], protocol: str) -> str:
    """:func:`rows` as a Markdown table. s(m) of one's own is the reconstructed one."""
    table = rows(models, protocol)
    lines = [list(table[0]), ["---"] * len(table[0]), *(list(row.values()) for row in table)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def compare(one: Score, other: Score) -> float | None:
    """p of a paired t-test over the seeds; None where they are too few, or not the same number."""
    if len(one.values) != len(other.values) or len(one.values) < 2:
        return None
    if one.values == other.values:
        return 1.0
    return float(stats.ttest_rel(one.values, other.values).pvalue)


def below(scores: dict[str, Score], minimum: Path) -> list[str]:
    """What falls below the stored references by more than their intervals, one line each.

    ``minimum`` is a CSV of task, mean and half_width, as `python -m eval scores --csv` writes. Raises ValueError where a task of
    it has no score.
    """
    with open(minimum, newline="") as stream:
        try:
            stored = {row["task"]: (float(row["mean"]), float(row["half_width"] or 0)) for row in csv.DictReader(stream)}
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{minimum} must have the columns task, mean and half_width: {error!r}") from error
    if missing := sorted(stored.keys() - scores.keys()):
        raise ValueError(f"no scores of {', '.join(missing)}")
    return [
        f"{task}: {scores[task].mean:.2f} is below {mean:.2f} by more than {half:.2f}"
        for task, (mean, half) in stored.items()
        if scores[task].mean < mean - half
    ]
