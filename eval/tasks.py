"""The tasks of the paper, and what is known about the scores of a task."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from hear_mwmae.tasks import Task

TASKS_CSV = Path(__file__).with_name("tasks.csv")


def registry() -> dict[str, dict[str, str]]:
    """The rows of tasks.csv by HEAR's directory names: the paper's ten tasks in its order, then the
    frame-level one.

    ``metric`` is heareval's name of the primary score, ``seconds`` the length of a clip (empty if
    they differ), ``licence`` that of the audio as far as ``licence_source`` says it, ``s_weight``
    the task's weight in the paper's overall score.
    """
    with open(TASKS_CSV, newline="", encoding="utf-8") as stream:
        return {row["folder"]: row for row in csv.DictReader(stream)}


def tested_clips(task: Task) -> int:
    """Number of tested clips: of all folds, or of the test split."""
    return sum(len(task.splits[number]) for number in task.tested)


def chance(task: Task) -> float | None:
    """The task's score without listening, in percent; None for scores of events.

    For an accuracy, the share of the most frequent label. For mean average precision, the mean
    share of clips that have a label, which a random order reaches.
    """
    tested = [labels for number in task.tested for labels in task.splits[number].values()]
    if task.metadata["evaluation"][0] in ("top1_acc", "pitch_acc"):
        counts = Counter(label for (label,) in tested)
        return 100 * max(counts.values()) / len(tested)
    if task.metadata["evaluation"][0] == "mAP" and not task.events:
        return 100 * sum(len(set(labels)) for labels in tested) / len(tested) / len(task.labels)
    return None
