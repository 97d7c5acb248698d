"""`python -m eval gate`: stored scores, and whether new ones are lower by more than chance."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
from scipy import stats

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import replacing

from .scores import CONFIDENCE, Score

#: Columns of the file. ``seeds`` are the scores by seed, such as "0=80.5 1=79.75"; ``clips`` is the
#: number of tested clips. Files of earlier versions, without the last two, are also read.
STORED_FIELDS = ("task", "protocol", "mean", "half_width", "seeds", "clips")


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
    """Read a file of :func:`write_csv`. HearMwmaeError if it is empty or has another protocol."""
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
    """How far a new mean may fall below a stored mean by chance alone, in percentage points.

    With stored seeds, it is the 95 % prediction interval of a mean of as many new seeds, from the
    spread of the stored seeds: t s sqrt(1 / stored + 1 / new). A stored interval without its seeds
    is used unchanged. One stored seed has no spread, so the spread of the new seeds is used. With
    one seed on both sides, it is the 95 % interval of the difference of two proportions over the
    tested clips, sqrt(2) times the interval of one proportion.
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
    # The interval of Agresti and Coull, whose width is not 0 at 0 % and 100 %.
    share = (clips * min(stored.mean, 100) / 100 + z**2 / 2) / (clips + z**2)
    return float(100 * z * math.sqrt(2 * share * (1 - share) / (clips + z**2)))


def below(scores: dict[str, Score], protocol: str, minimum: Path) -> list[str]:
    """A line for each score that falls below the stored score of :func:`write_csv` by more than its
    :func:`tolerance`.

    Raises HearMwmaeError if a stored task has no score or another protocol, or if the file is
    empty.
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
