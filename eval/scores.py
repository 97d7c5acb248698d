"""Results on disk -> mean and interval per task, the paper's overall score s(m), and tables beside published rows."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import read_json, replacing

from .embed import EMBEDDINGS
from .predict import Job, is_done
from .tasks import read_metadata, registry

REFERENCES_CSV = Path(__file__).with_name("references.csv")
CONFIDENCE = 0.95
#: Columns of the CSV that `gate` compares with. ``seeds`` are the scores by seed, such as "0=80.5 1=79.75"; ``clips`` are those
#: tested. Files without the last two, of earlier versions, are read as well.
STORED_FIELDS = ("task", "protocol", "mean", "half_width", "seeds", "clips")

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
    clips: int | None = None  #: that the task tests, where known

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + (f"±{self.half_width:.1f}" if self.half_width is not None else "")


def primary_score(scores: dict) -> float:
    """heareval's first score of a task, in percent: the mean over the folds, or that of the test split.

    An event model that finds nothing has no F-measure; that counts as 0. (The kit's own mean leaves such a fold out.)
    """
    tested = [100 * split["test_score"] for split in scores.values() if isinstance(split, dict) and "test_score" in split]
    return float(np.mean([0.0 if math.isnan(score) else score for score in tested]))


def summarise(values: dict[int, float], clips: int | None = None) -> Score:
    """Mean and Student-t interval of one value per seed."""
    numbers = list(values.values())
    mean, count = float(np.mean(numbers)), len(numbers)
    if count < 2:
        return Score(mean, None, values, clips)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)
    return Score(mean, float(quantile * np.std(numbers, ddof=1) / np.sqrt(count)), values, clips)


def read_scores(results: Path, protocol: str) -> dict[str, Score]:
    """Task folder name -> score, of a model's results under one protocol.

    Raises HearMwmaeError when a result is of other embeddings than those that are there.
    """
    scores = {}
    for folder in sorted(path for path in results.iterdir() if (path / protocol).is_dir()):
        values = {}
        for file in (folder / protocol).glob("seed-*.json"):
            seed = file.stem.removeprefix("seed-")
            if not seed.isdecimal():
                raise HearMwmaeError(f"{file} is not named after a seed, such as seed-0.json")
            seed = int(seed)
            if not is_done(Job(folder, protocol, seed)):
                raise HearMwmaeError(f"{file} is of other embeddings than those in {folder}: predict again")
            values[seed] = primary_score(read_json(file)["scores"])
        if values:
            scores[folder.name] = summarise(dict(sorted(values.items())), _tested_clips(folder / EMBEDDINGS))
    return scores


def _tested_clips(embeddings: Path) -> int | None:
    """Clips that a task tests: all of its folds, or the test split. None where the embeddings were removed."""
    if not (embeddings / "task_metadata.json").is_file():
        return None
    metadata = read_metadata(embeddings)
    tested = ["test"] if metadata["split_mode"] == "trainvaltest" else metadata["splits"]
    return sum(len(read_json(embeddings / f"{split}.json")) for split in tested)


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
            seeds = " ".join(f"{seed}={value}" for seed, value in score.values.items())
            half = "" if score.half_width is None else score.half_width
            writer.writerow([task, protocol, score.mean, half, seeds, score.clips or ""])


def read_csv(path: Path, protocol: str) -> dict[str, Score]:
    """What :func:`write_csv` wrote. Raises HearMwmaeError where that is of another protocol, or nothing."""
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        stored = {row["task"]: _stored(row) for row in rows}
        others = sorted({row["protocol"] for row in rows} - {protocol})
    except (KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise HearMwmaeError(f"{path} must have the columns {', '.join(STORED_FIELDS)}: {error!r}") from error
    if not stored:
        raise HearMwmaeError(f"{path} holds no scores")
    if others:
        raise HearMwmaeError(f"{path} holds scores of protocol {', '.join(others)}, not of {protocol}")
    return stored


def _stored(row: dict[str, str]) -> Score:
    half, clips = row["half_width"], row.get("clips")
    values = dict(pair.split("=") for pair in (row.get("seeds") or "").split())
    return Score(
        float(row["mean"]),
        float(half) if half else None,
        {int(seed): float(value) for seed, value in values.items()},
        int(clips) if clips else None,
    )


def tolerance(stored: Score, new: Score) -> float:
    """How far below a stored mean chance alone brings that of a new run, in percent points.

    Where seeds are stored, it is the 95 % prediction interval of a mean of as many new seeds, from the spread of the stored ones:
    t s sqrt(1 / stored + 1 / new). A stored interval without its seeds counts as it is. With one stored seed, which has no
    spread, that of the new seeds is taken; with one seed on both sides, the 95 % interval of the difference of two proportions
    of as many tested clips, sqrt(2) times that of one.
    """
    one, other = list(stored.values.values()), list(new.values.values())
    spread = one if len(one) > 1 else other
    if len(one) < 2 and stored.half_width is not None:
        return stored.half_width
    if len(spread) > 1:
        quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(spread) - 1)
        return float(quantile * np.std(spread, ddof=1) * math.sqrt(1 / max(len(one), 1) + 1 / len(other)))
    clips = stored.clips or new.clips
    if not clips:
        return 0.0
    z = stats.norm.ppf((1 + CONFIDENCE) / 2)
    # Agresti's and Coull's interval, which is not 0 wide at 0 % and 100 %.
    share = (clips * min(stored.mean, 100) / 100 + z**2 / 2) / (clips + z**2)
    return float(100 * z * math.sqrt(2 * share * (1 - share) / (clips + z**2)))


def below(scores: dict[str, Score], protocol: str, minimum: Path) -> list[str]:
    """What falls below the stored scores of :func:`write_csv` by more than their :func:`tolerance`, one line each.

    Raises HearMwmaeError where a stored task has no score, or is of another protocol, or nothing is stored.
    """
    stored = read_csv(minimum, protocol)
    if missing := sorted(stored.keys() - scores.keys()):
        raise HearMwmaeError(f"no scores of {', '.join(missing)}")
    allowed = {task: tolerance(score, scores[task]) for task, score in stored.items()}
    return [
        f"{task}: {scores[task].mean:.2f} is below {score.mean:.2f} by more than {allowed[task]:.2f}"
        for task, score in stored.items()
        if not scores[task].mean >= score.mean - allowed[task]
    ]
