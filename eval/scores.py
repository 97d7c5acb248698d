"""Results on disk -> mean and interval per task, the paper's overall score s(m), and tables beside published rows."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import replacing

from .predict import Job, is_done
from .tasks import registry

REFERENCES_CSV = Path(__file__).with_name("references.csv")
CONFIDENCE = 0.95
STORED_FIELDS = ("task", "protocol", "mean", "half_width")

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
#: Of the scores that it was fitted to.
S_PROTOCOL = "paper"


@dataclass(frozen=True)
class Score:
    """A task's score over seeds, in percent."""

    mean: float
    half_width: float | None  #: of the 95 % Student-t interval of the mean; None with one seed
    values: dict[int, float]  #: by seed

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + (f"±{self.half_width:.1f}" if self.half_width is not None else "")


def primary_score(scores: dict) -> float:
    """heareval's first score of a task, in percent: the mean over the folds, or that of the test split.

    An event model that finds nothing has no F-measure; that counts as 0. (The kit's own mean leaves such a fold out.)
    """
    tested = [100 * split["test_score"] for split in scores.values() if isinstance(split, dict) and "test_score" in split]
    return float(np.mean([0.0 if math.isnan(score) else score for score in tested]))


def summarise(values: dict[int, float]) -> Score:
    """Mean and Student-t interval of one value per seed."""
    numbers = list(values.values())
    mean, count = float(np.mean(numbers)), len(numbers)
    if count < 2:
        return Score(mean, None, values)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)
    return Score(mean, float(quantile * np.std(numbers, ddof=1) / np.sqrt(count)), values)


def read_scores(results: Path, protocol: str) -> dict[str, Score]:
    """Task folder name -> score, of a model's results under one protocol.

    Raises HearMwmaeError when a result is of other embeddings than those that are there.
    """
    scores = {}
    for folder in sorted(path for path in results.iterdir() if (path / protocol).is_dir()):
        values = {}
        for file in (folder / protocol).glob("seed-*.json"):
            seed = int(file.stem.removeprefix("seed-"))
            if not is_done(Job(folder, protocol, seed)):
                raise HearMwmaeError(f"{file} is of other embeddings than those in {folder}: predict again")
            values[seed] = primary_score(json.loads(file.read_text())["scores"])
        if values:
            scores[folder.name] = summarise(dict(sorted(values.items())))
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
    keys = {task.key for task in known.values()}
    # A folder of one's own that is called like a task of the paper is not that task.
    return {folder: known[folder].key if folder in known else folder + "/" * (folder in keys) for folder in order}


def rows(models: dict[str, dict[str, Score]], protocol: str) -> list[dict[str, str]]:
    """A row per model, and the published ones of the same protocol and tasks, with a cell per task."""
    heads = columns(models)
    table = [own_row(name, scores, protocol, heads) for name, scores in models.items()]
    for row in references():
        cells = {head: row.get(head) or "" for head in heads.values()}
        if row["protocol"] == protocol and any(cells.values()):
            about = {"model": row["name"], "protocol": protocol, "seeds": row["seeds"]}
            table.append({**about, **cells, "s(m)": row["s"], "source": row["source"]})
    return table


def own_row(name: str, scores: dict[str, Score], protocol: str, heads: dict[str, str]) -> dict[str, str]:
    """The row of a model that was scored here; tasks with fewer seeds than others are named beside the number of seeds."""
    counts = {head: len(scores[folder].values) for folder, head in heads.items() if folder in scores}
    usual = max(counts.values())
    short = ", ".join(f"{head} {count}" for head, count in counts.items() if count < usual)
    seeds = f"{usual}" + f" ({short})" * bool(short)
    value = overall(scores) if protocol == S_PROTOCOL else None
    cells = {head: str(scores[folder]) if folder in scores else "" for folder, head in heads.items()}
    s = f"≈{value:.1f}" if value is not None else ""
    return {"model": name, "protocol": protocol, "seeds": seeds, **cells, "s(m)": s, "source": "computed here"}


def markdown(models: dict[str, dict[str, Score]], protocol: str) -> str:
    """:func:`rows` as a Markdown table. "≈" marks the s(m) that are reconstructed."""
    table = rows(models, protocol)
    lines = [list(table[0]), ["---"] * len(table[0]), *(list(row.values()) for row in table)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def table_csv(models: dict[str, dict[str, Score]], protocol: str) -> str:
    """:func:`rows` as CSV."""
    table, text = rows(models, protocol), io.StringIO(newline="")
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def compare(one: Score, other: Score) -> tuple[float, float | None]:
    """Difference of the means, and p of a paired t-test, over the seeds that both have.

    Without two such seeds the difference is that of all, and p None; so is p where the seeds do not differ among themselves.
    """
    seeds = sorted(one.values.keys() & other.values.keys())
    if len(seeds) < 2:
        return other.mean - one.mean, None
    differences = np.array([other.values[seed] - one.values[seed] for seed in seeds])
    p = None if np.ptp(differences) < 1e-9 else float(stats.ttest_1samp(differences, 0).pvalue)
    return float(differences.mean()), p


def write_csv(scores: dict[str, Score], protocol: str, path: Path) -> None:
    """A row per task, for :func:`below`."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(STORED_FIELDS)
        for task, score in scores.items():
            writer.writerow([task, protocol, score.mean, "" if score.half_width is None else score.half_width])


def below(scores: dict[str, Score], protocol: str, minimum: Path) -> list[str]:
    """What falls below the stored scores of :func:`write_csv` by more than their intervals, one line each.

    Raises HearMwmaeError where a stored task has no score, or is of another protocol, or nothing is stored.
    """
    with open(minimum, newline="") as stream:
        try:
            rows = list(csv.DictReader(stream))
            stored = {row["task"]: (float(row["mean"]), float(row["half_width"] or 0)) for row in rows}
            others = sorted({row["protocol"] for row in rows} - {protocol})
        except (KeyError, ValueError, TypeError) as error:
            raise HearMwmaeError(f"{minimum} must have the columns {', '.join(STORED_FIELDS)}: {error!r}") from error
    if not stored:
        raise HearMwmaeError(f"{minimum} holds no scores")
    if others:
        raise HearMwmaeError(f"{minimum} holds scores of protocol {', '.join(others)}, not of {protocol}")
    if missing := sorted(stored.keys() - scores.keys()):
        raise HearMwmaeError(f"no scores of {', '.join(missing)}")
    return [
        f"{task}: {scores[task].mean:.2f} is below {mean:.2f} by more than {half:.2f}"
        for task, (mean, half) in stored.items()
        if not scores[task].mean >= mean - half
    ]
