"""Results on disk -> mean and interval per task, the paper's overall score s(m), and tables beside
published rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
from scipy import stats

from .results import find_results
from .tasks import registry

REFERENCES_CSV = Path(__file__).with_name("references.csv")

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
    seeds: int

    def __str__(self) -> str:
        if self.half_width is None:
            return f"{self.mean:.1f}"
        return f"{self.mean:.1f}±{self.half_width:.1f}"


#: By the folder name of the task.
ModelScores = dict[str, TaskScore]


def task_score(scores: dict) -> float:
    """heareval's score of a task, in percent: the first of its scores, on the test split or as the
    mean over folds.
    """
    tested = [
        split["test_score"]
        for split in scores.values()
        if isinstance(split, dict) and "test_score" in split
    ]
    return 100 * float(np.mean(tested))


def summarize(values: list[float]) -> TaskScore:
    """Mean and Student-t interval of one value per seed."""
    half_width = None
    if len(values) > 1:
        half_width = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return TaskScore(float(np.mean(values)), half_width, len(values))


def read_scores(results: Path, protocol: str) -> ModelScores:
    """Task folder name -> score, of a model's results under one protocol.

    Raises HearMwmaeError if a result belongs to other embeddings than the present ones.
    """
    found = find_results(results, protocol)
    return {
        name: summarize([task_score(one.read()["scores"]) for one in task])
        for name, task in found.items()
    }


def overall(scores: ModelScores) -> float | None:
    """s(m), reconstructed; None unless all ten tasks of the paper have scores."""
    weights = {name: row["s_weight"] for name, row in registry().items() if row["s_weight"]}
    if not weights.keys() <= scores.keys():
        return None
    return S_CONSTANT + sum(float(weights[name]) * scores[name].mean for name in weights)


def references() -> pandas.DataFrame:
    """Published rows: name, protocol, seeds, a cell per task of the registry, s and source."""
    return pandas.read_csv(REFERENCES_CSV, dtype=str, keep_default_na=False)


def columns(models: dict[str, ModelScores]) -> dict[str, str]:
    """Task folder -> short name, the paper's tasks in its order and then the others."""
    found = {folder for scores in models.values() for folder in scores}
    known = {folder: row["key"] for folder, row in registry().items() if folder in found}
    # A user's folder with the short name of a paper's task is not that task.
    taken = known.values()
    others = sorted(found - known.keys())
    return known | {folder: f"{folder}/" if folder in taken else folder for folder in others}


def table(models: dict[str, ModelScores], protocol: str) -> pandas.DataFrame:
    """A row per model, and the published ones of the same protocol and tasks, with a cell per
    task. "≈" marks reconstructed s(m). Columns that are empty in all rows are left out.
    """
    heads = columns(models)
    own = pandas.DataFrame([_row(*model, protocol, heads) for model in models.items()])
    published = references().rename(columns={"name": "model", "s": "s(m)"})
    known = {row["key"] for folder, row in registry().items() if folder in heads}
    keys = [column for column in published if column in known]
    comparable = (published["protocol"] == protocol) & (published[keys] != "").any(axis=1)
    shown = published.loc[comparable, ["model", "seeds", *keys, "s(m)", "source"]]
    return filled(pandas.concat([own, shown]))


def filled(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The table without the columns that are empty in all rows."""
    frame = frame.fillna("")
    return frame.loc[:, (frame != "").any()]


def _row(name: str, scores: ModelScores, protocol: str, heads: dict[str, str]) -> dict[str, str]:
    """The row of a model that was scored here."""
    seeds = sorted({score.seeds for score in scores.values()})
    value = overall(scores) if protocol == S_PROTOCOL else None
    return {
        "model": name,
        "seeds": " or ".join(map(str, seeds)),
        **{head: str(scores.get(task, "")) for task, head in heads.items()},
        "s(m)": "" if value is None else f"≈{value:.1f}",
    }
