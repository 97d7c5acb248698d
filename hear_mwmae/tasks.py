"""HEAR task folders, as HEAR's preprocessing writes them.

TASK/task_metadata.json    kind of the task, its splits, its metric
TASK/labelvocabulary.csv   every label with its number: idx,label
TASK/SPLIT.json            file name -> list of labels, or of events with label, start and end
TASK/16000/SPLIT/FILE      the audio at 16 kHz
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import soundfile
from pydantic import BaseModel, Field

from .errors import HearMwmaeError, checked
from .files import read_json

METADATA = "task_metadata.json"
VOCABULARY = "labelvocabulary.csv"
#: Sample rate of the audio. HEAR tasks have a folder of audio for each rate.
SAMPLE_RATE = 16000

#: HEAR writes the labels of some tasks as numbers, pitches for one.
Label = Annotated[str, Field(coerce_numbers_to_str=True)]


class Event(NamedTuple):
    """A label, and when it begins and ends in milliseconds."""

    label: Label
    start: float
    end: float


#: (embedding_type, prediction_type) of HEAR's three kinds of tasks -> the content of SPLIT.json.
LABELS = {
    ("scene", "multiclass"): dict[str, Annotated[list[Label], Field(min_length=1, max_length=1)]],
    ("scene", "multilabel"): dict[str, list[Label]],
    ("event", "multilabel"): dict[str, list[Event]],
}


class _Metadata(BaseModel):
    """What every reader needs of task_metadata.json; HEAR's kit reads more."""

    embedding_type: Literal["scene", "event"]
    prediction_type: Literal["multiclass", "multilabel"]
    split_mode: str
    splits: Annotated[list[str], Field(min_length=2)]


@dataclass(frozen=True)
class Task:
    """A HEAR task: one label per clip, any number of labels per clip, or events in time.

    Attributes:
        folder: of the task, or of its embeddings, which have the labels beside them.
        metadata: the content of task_metadata.json.
        splits: for every split the labels of each audio file: names, or `Event` for events.
    """

    folder: Path
    metadata: dict[str, Any]
    splits: list[dict[Path, list]]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def events(self) -> bool:
        """Whether labels belong to moments, not to clips."""
        return self.metadata["embedding_type"] == "event"

    @property
    def multilabel(self) -> bool:
        """Whether there may be any number of labels at once; always true for events."""
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
        found = chain.from_iterable(chain.from_iterable(map(dict.values, self.splits)))
        return sorted({label[0] if self.events else label for label in found})


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
        splits = [_read_split(folder, name, metadata, sample_rate) for name in metadata["splits"]]
        task = Task(folder, metadata, splits)
        if not task.multilabel and len(task.labels) < 2:
            raise HearMwmaeError(f"all clips have the label {''.join(task.labels)!r}")
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


def kit_labels(folder: Path) -> list[str]:
    """The labels in labelvocabulary.csv as HEAR's kit reads them: by pandas, which takes some words
    for missing values, and names that look like numbers for numbers.

    HearMwmaeError if the file is missing, or does not number its labels from 0.
    """
    import pandas  # slow to import, and probes need no vocabulary

    file = folder / VOCABULARY
    try:
        table = pandas.read_csv(file)
        numbers = table["idx"].tolist()
        labels = table["label"].astype(str).tolist()
    except (OSError, ValueError, KeyError) as error:
        reason = "there is none" if not file.is_file() else f"{type(error).__name__}: {error}"
        raise HearMwmaeError(f"{VOCABULARY} needs the columns idx and label: {reason}") from error
    if sorted(numbers) != list(range(len(numbers))) or len(set(labels)) < len(labels):
        raise HearMwmaeError(f"{VOCABULARY} must number every label once, from 0")
    return labels


def unreadable_labels(folder: Path, labels: Iterable[str]) -> list[str]:
    """Those of ``labels`` that HEAR's kit does not find in labelvocabulary.csv."""
    return sorted(set(labels) - set(kit_labels(folder)))


def _why_unreadable(path: Path) -> str:
    try:
        soundfile.info(path)
    except soundfile.SoundFileError:
        return "unreadable" if path.is_file() else "missing"
    return ""


def _read_metadata(folder: Path) -> dict[str, Any]:
    values = read_json(folder / METADATA)
    found = checked(_Metadata, values, METADATA)
    if found.split_mode == "trainvaltest" and "test" not in found.splits:
        raise HearMwmaeError(f"{METADATA} names no split test, but {', '.join(found.splits)}")
    if (found.embedding_type, found.prediction_type) not in LABELS:
        raise HearMwmaeError(f"{METADATA}: events are multilabel, not {found.prediction_type}")
    return values


def _read_split(
    folder: Path, split: str, metadata: dict[str, Any], sample_rate: int
) -> dict[Path, list]:
    kind = LABELS[metadata["embedding_type"], metadata["prediction_type"]]
    found = checked(kind, read_json(folder / f"{split}.json"), f"{split}.json")
    audio = folder / str(sample_rate) / split
    return {audio / name: labels for name, labels in found.items()}
