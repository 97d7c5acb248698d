"""The tasks of the paper, and HEAR task folders on disk."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import soundfile

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import read_json

#: What heareval reads of a task's metadata, beside its splits.
REQUIRED = {"task_name", "embedding_type", "prediction_type", "sample_duration", "split_mode", "evaluation"}
TASKS_CSV = Path(__file__).with_name("tasks.csv")


@dataclass(frozen=True)
class Task:
    """A task of the HEAR benchmark, as its site lists it."""

    key: str  #: the paper's short name, such as "Mri-S"
    folder: str  #: HEAR's own directory name
    title: str
    embedding: str  #: "scene" or "event" (timestamps)
    metric: str  #: heareval's name of the primary score
    splits: str  #: "5-fold" or "train/valid/test"
    clips: int
    seconds: float | None  #: of a clip; None where they differ
    source: str
    licence: str  #: of the audio, as far as known
    licence_source: str  #: who says so
    in_paper: bool  #: one of the ten that s(m) is computed from


def registry() -> dict[str, Task]:
    """The paper's ten tasks in its order, then the frame-level one, by folder."""
    with open(TASKS_CSV, newline="") as stream:
        rows = list(csv.DictReader(stream))
    tasks = []
    for row in rows:
        row |= {"clips": int(row["clips"]), "in_paper": row["in_paper"] == "yes"}
        row["seconds"] = float(row["seconds"]) if row["seconds"] else None
        tasks.append(Task(**row))
    return {task.folder: task for task in tasks}


def find_tasks(tasks_dir: Path, names: tuple[str, ...] = ()) -> list[Path]:
    """Task folders below ``tasks_dir``: all, or those of these names. Raises HearMwmaeError where one or all are missing."""
    if names:
        folders = [tasks_dir / name for name in dict.fromkeys(names)]
        if missing := [folder.name for folder in folders if not (folder / "task_metadata.json").is_file()]:
            raise HearMwmaeError(f"{tasks_dir} has no task {', '.join(missing)}")
        return folders
    folders = sorted(path.parent for path in tasks_dir.glob("*/task_metadata.json"))
    if not folders:
        raise HearMwmaeError(f"{tasks_dir} holds no HEAR tasks (folders with a task_metadata.json)")
    return folders


def read_metadata(folder: Path) -> dict:
    """What a task says of itself; the kit copies it to the embeddings."""
    return read_json(folder / "task_metadata.json")


def label_files(folder: Path) -> list[str]:
    """What a task folder holds beside audio, and the kit copies to the embeddings."""
    return ["task_metadata.json", "labelvocabulary.csv", *(f"{split}.json" for split in read_metadata(folder)["splits"])]


def check_task(folder: Path, sample_rate: int = 16000) -> list[str]:
    """What is wrong with a task folder, down to the headers of its audio files; nothing when it is complete."""
    problems = []
    try:
        metadata = read_metadata(folder)
        splits = list(metadata["splits"])
        if missing := sorted(REQUIRED - metadata.keys()):
            problems.append(f"task_metadata.json says nothing of {', '.join(missing)}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"task_metadata.json: {error!r}"]
    if not (folder / "labelvocabulary.csv").is_file():
        problems.append("no labelvocabulary.csv")
    for split in splits:
        try:
            names = list(json.loads((folder / f"{split}.json").read_text()))
        except (OSError, ValueError) as error:
            problems.append(f"{split}.json: {error!r}")
            continue
        audio = folder / str(sample_rate) / split
        wrong = {name: fault for name in names if (fault := _fault(audio / name, sample_rate))}
        for fault, count in Counter(wrong.values()).items():
            example = next(name for name in names if wrong.get(name) == fault)
            problems.append(f"{sample_rate}/{split}: {count} of {len(names)} files {fault}, such as {example}")
    return problems


def count_clips(folder: Path) -> int:
    """Clips in all splits of a task."""
    return sum(len(read_json(folder / f"{split}.json")) for split in read_metadata(folder)["splits"])


def _fault(path: Path, sample_rate: int) -> str:
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError:
        return "unreadable" if path.is_file() else "missing"
    if not info.frames:
        return "empty"
    return "" if info.samplerate == sample_rate else f"at {info.samplerate} Hz"
