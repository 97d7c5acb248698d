"""The tasks of the paper, and others of HEAR."""

from __future__ import annotations

import csv
from pathlib import Path

TASKS_CSV = Path(__file__).with_name("tasks.csv")


def registry() -> dict[str, dict[str, str]]:
    """The rows of tasks.csv by HEAR's directory names, in the order of the paper.

    ``key`` is the paper's name of the task, ``metric`` heareval's name of the score, ``seconds``
    the length of a clip (empty if they differ), ``licence`` that of the audio as far as
    ``licence_source`` says it, ``s_weight`` the task's weight in the paper's overall score, empty
    for tasks that are not the paper's.
    """
    with open(TASKS_CSV, newline="", encoding="utf-8") as stream:
        return {row["folder"]: row for row in csv.DictReader(stream)}
