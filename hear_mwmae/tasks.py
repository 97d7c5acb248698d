"""HEAR task folders, as HEAR's preprocessing writes them.

TASK/task_metadata.json    kind of the task, its splits, its metric
TASK/labelvocabulary.csv   every label with its number: idx,label
TASK/SPLIT.json            file name -> list of labels
TASK/16000/SPLIT/FILE      the audio at 16 kHz
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from .errors import HearMwmaeError
from .files import read_json

METADATA = "task_metadata.json"
VOCABULARY = "labelvocabulary.csv"
#: Sample rate of the audio. HEAR tasks have a folder of audio for each rate.
SAMPLE_RATE = 16000


@dataclass(frozen=True)
class Task:
    """A HEAR task: one label per clip, or any number of labels per clip.

    Attributes:
        folder: of the task, or of its embeddings, which have the labels beside them.
        metadata: the content of task_metadata.json.
        splits: for every split the labels of each audio file.
    """

    folder: Path
    metadata: dict[str, Any]
    splits: list[dict[Path, list[str]]]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def multilabel(self) -> bool:
        """Whether a clip may have any number of labels."""
        return self.metadata["prediction_type"] == "multilabel"

    @property
    def split_names(self) -> list[str]:
        return self.metadata["splits"]

    @property
    def tested(self) -> list[int]:
        """Indices of the splits that are held out in turn: all folds, or the test split alone."""
        if self.metadata["split_mode"] == "trainvaltest":
            return [self.split_names.index("test")]
        return list(range(len(self.splits)))

    @property
    def labels(self) -> list[str]:
        """All names of labels, sorted."""
        return sorted(_labels_in(*self.splits))


def find_tasks(paths: Iterable[str | Path]) -> list[Path]:
    """The task folders among ``paths``: each path is one, or a folder of them.

    HearMwmaeError for a path that is neither.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        folders = [path] if (path / METADATA).is_file() else []
        folders = folders or [file.parent for file in sorted(path.glob(f"*/{METADATA}"))]
        if not folders:
            raise HearMwmaeError(f"{path} is no HEAR task and holds none (folders with {METADATA})")
        found.update(dict.fromkeys(folders))
    return list(found)


def read_task(folder: str | Path, sample_rate: int = SAMPLE_RATE, audio: bool = True) -> Task:
    """Read a task.

    HearMwmaeError if ``folder`` is not a task, or one that nothing can be learned from.

    Args:
        sample_rate: of the audio files that the task names.
        audio: also refuse audio files that are missing or unreadable.
    """
    folder = Path(folder)
    try:
        metadata = _read_metadata(folder)
        one = metadata["prediction_type"] == "multiclass"
        splits = [_read_split(folder, name, sample_rate, one) for name in metadata["splits"]]
        task = Task(folder, metadata, splits)
        _check_learnable(task)
        if audio and (faults := audio_faults(task, _why_unreadable)):
            raise HearMwmaeError("; ".join(faults))
    except HearMwmaeError as error:
        raise HearMwmaeError(f"{folder} is not a HEAR task that can be learned: {error}") from error
    return task


def audio_faults(task: Task, fault_of: Callable[[Path], str]) -> list[str]:
    """A line for each split and fault, such as "16000/fold01: 2 of 12 files missing, such as
    a.wav".

    Args:
        fault_of: what is wrong with an audio file; "" for nothing.
    """
    lines = []
    for split in task.splits:
        faults: dict[str, list[Path]] = {}
        for path in split:
            faults.setdefault(fault_of(path), []).append(path)
        faults.pop("", None)
        for fault, (first, *others) in faults.items():
            where = first.parent.relative_to(task.folder)
            count = f"{1 + len(others)} of {len(split)} files"
            lines.append(f"{where}: {count} {fault}, such as {first.name}")
    return lines


def _why_unreadable(path: Path) -> str:
    try:
        soundfile.info(path)
    except soundfile.SoundFileError:
        return "unreadable" if path.is_file() else "missing"
    return ""


def _read_metadata(folder: Path) -> dict[str, Any]:
    file = folder / METADATA
    found = read_json(file)
    splits = found.get("splits") if isinstance(found, dict) else None
    if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
        raise HearMwmaeError(f"{file} must be an object with a list of splits")
    if len(set(splits)) < 2 or len(set(splits)) < len(splits):
        raise HearMwmaeError(f"{METADATA} must name two splits or more, got {splits}")
    if "split_mode" not in found:
        raise HearMwmaeError(f"{METADATA} has no split_mode")
    if found["split_mode"] == "trainvaltest" and "test" not in splits:
        raise HearMwmaeError(f"{METADATA} names no split test, but {', '.join(splits)}")
    kind = f"{found.get('embedding_type')} {found.get('prediction_type')}"
    if kind not in ("scene multiclass", "scene multilabel"):
        raise HearMwmaeError(f"a task is scene multiclass or scene multilabel, not {kind}")
    return found


def _read_split(folder: Path, split: str, sample_rate: int, one: bool) -> dict[Path, list[str]]:
    found = read_json(folder / f"{split}.json")
    if not isinstance(found, dict) or not found:
        raise HearMwmaeError(f"{split}.json must be an object with a list of labels for every clip")
    if odd := [name for name in found if Path(name).name != name]:
        raise HearMwmaeError(f"{split}.json has {odd[0]!r}, which is not the name of a file")
    audio = folder / str(sample_rate) / split
    return {audio / name: _names(labels, one) for name, labels in found.items()}


def _names(labels: Any, one: bool) -> list[str]:
    # HEAR writes the labels of some tasks as numbers, pitches for one.
    valid = isinstance(labels, list) and all(type(name) in (str, int, float) for name in labels)
    if not valid or (one and len(labels) != 1):
        expected = "a list of one name" if one else "a list of names"
        raise HearMwmaeError(f"labels of a clip are {expected}, not {labels!r}")
    return [str(label) for label in labels]


def _labels_in(*splits: dict[Path, list[str]]) -> set[str]:
    return {label for split in splits for labels in split.values() for label in labels}


def _check_learnable(task: Task) -> None:
    for held_out in task.tested:
        others = [split for number, split in enumerate(task.splits) if number != held_out]
        known = _labels_in(*others)
        name = task.split_names[held_out]
        if task.multilabel and not known & _labels_in(task.splits[held_out]):
            raise HearMwmaeError(f"{name} has no label that the other splits have")
        if not task.multilabel and len(known) < 2:
            raise HearMwmaeError(f"beside {name}, all clips have the label {known.pop()!r}")
