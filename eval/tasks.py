"""The tasks of the paper, and checks of their folders."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.probing.tasks import METADATA, SAMPLE_RATE, VOCABULARY, TaskFolder

#: Keys of a task's metadata that heareval reads, except its splits.
REQUIRED = {"task_name", "embedding_type", "prediction_type", "sample_duration", "split_mode", "evaluation"}
TASKS_CSV = Path(__file__).with_name("tasks.csv")


@dataclass(frozen=True)
class BenchmarkTask:
    """A task of the HEAR benchmark, as its site lists it."""

    key: str  #: the paper's short name, such as "Mri-S"
    folder: str  #: HEAR's own directory name
    title: str
    embedding: str  #: "scene" or "event" (timestamps)
    metric: str  #: heareval's name of the primary score
    splits: str  #: "5-fold" or "train/valid/test"
    clips: int
    seconds: float | None  #: of a clip; None if they differ
    source: str
    licence: str  #: of the audio, as far as known
    licence_source: str  #: who says so
    in_paper: bool  #: one of the ten that s(m) is computed from


def registry() -> dict[str, BenchmarkTask]:
    """The paper's ten tasks in its order, then the frame-level one, by folder."""
    with open(TASKS_CSV, newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {row["folder"]: BenchmarkTask(**_typed(row)) for row in rows}


def _typed(row: dict[str, str]) -> dict[str, Any]:
    seconds = float(row["seconds"]) if row["seconds"] else None
    return {**row, "clips": int(row["clips"]), "seconds": seconds, "in_paper": row["in_paper"] == "yes"}


def find_tasks(tasks_dir: Path, names: tuple[str, ...] = ()) -> list[TaskFolder]:
    """All or the named task folders below ``tasks_dir``.

    HearMwmaeError if one or all are missing.
    """
    found = {path.parent.name: TaskFolder(path.parent) for path in sorted(tasks_dir.glob(f"*/{METADATA}"))}
    if missing := sorted(set(names) - found.keys()):
        raise HearMwmaeError(f"{tasks_dir} has no task {', '.join(missing)}")
    if not found:
        raise HearMwmaeError(f"{tasks_dir} holds no HEAR tasks (folders with a {METADATA})")
    return [found[name] for name in dict.fromkeys(names or found)]


def problems_of(task: TaskFolder, sample_rate: int = SAMPLE_RATE) -> list[str]:
    """Problems of a task folder, including the headers of its audio files; [] if it is complete."""
    problems = []
    try:
        if missing := sorted(REQUIRED - task.metadata.keys()):
            problems.append(f"{METADATA} has no {', '.join(missing)}")
    except HearMwmaeError as error:
        return [str(error)]
    if not (task.path / VOCABULARY).is_file():
        problems.append(f"no {VOCABULARY}")
    for split in task.splits:
        try:
            headers = task.headers(split, sample_rate)
        except HearMwmaeError as error:
            problems.append(str(error))
            continue
        wrong: dict[str, list[str]] = {}
        for path, header in headers.items():
            wrong.setdefault(header.fault, []).append(path.name)
        for fault, files in wrong.items():
            if fault:
                problems.append(f"{sample_rate}/{split}: {len(files)} of {len(headers)} files {fault}, such as {files[0]}")
    return problems


def seconds_of(task: TaskFolder, sample_rate: int) -> list[float]:
    """Lengths of all clips of a task, at one of its sample rates."""
    return [header.seconds for split in task.splits for header in task.headers(split, sample_rate).values()]
