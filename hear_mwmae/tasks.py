"""HEAR task folders, as HEAR's preprocessing writes them.

TASK/task_metadata.json    kind of the task, its splits, its metric
TASK/labelvocabulary.csv   every label with its number: idx,label
TASK/SPLIT.json            file name -> list of labels, or of events with label, start and end
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
#: (embedding_type, prediction_type) of HEAR's three kinds of tasks.
KINDS = (("scene", "multiclass"), ("scene", "multilabel"), ("event", "multilabel"))

#: Label, start and end in milliseconds.
Event = tuple[str, float, float]


@dataclass(frozen=True)
class Task:
    """A HEAR task: one label per clip, any number of labels per clip, or events in time.

    Attributes:
        folder: of the task, or of its embeddings, which have the labels beside them.
        metadata: the content of task_metadata.json.
        splits: for every split the labels of each audio file: names, or :data:`Event` for events.
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
        return sorted({name for split in self.splits for name in self.names_in(split)})

    def names_in(self, split: dict[Path, list]) -> set[str]:
        """Names of the labels of any clip or event of ``split``."""
        labels = (label for labels in split.values() for label in labels)
        return {label[0] if self.events else label for label in labels}


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
    kind = found.get("embedding_type"), found.get("prediction_type")
    if kind not in KINDS:
        raise HearMwmaeError(
            "tasks are scenes, multiclass or multilabel, or multilabel events, not "
            f"{kind[0]} {kind[1]}"
        )
    return found


def _read_split(
    folder: Path, split: str, metadata: dict[str, Any], sample_rate: int
) -> dict[Path, list]:
    found = read_json(folder / f"{split}.json")
    if not isinstance(found, dict) or not all(
        isinstance(labels, list) for labels in found.values()
    ):
        raise HearMwmaeError(f"{split}.json must be an object with a list of labels for every clip")
    if not found:
        raise HearMwmaeError(f"{split}.json names no clips")
    if odd := [name for name in found if Path(name).name != name]:
        raise HearMwmaeError(f"{split}.json has {odd[0]!r}, which is not the name of a file")
    audio = folder / str(sample_rate) / split
    if metadata["embedding_type"] == "event":
        return {audio / name: [_event(event) for event in events] for name, events in found.items()}
    one = metadata["prediction_type"] == "multiclass"
    return {audio / name: _names(labels, one) for name, labels in found.items()}


def _event(event: Any) -> Event:
    try:
        label, start, end = str(event["label"]), float(event["start"]), float(event["end"])
    except (KeyError, TypeError, ValueError) as error:
        raise HearMwmaeError(f"an event has label, start and end, not {event!r}") from error
    if not start <= end:
        raise HearMwmaeError(f"an event ends before it starts: {event!r}")
    return label, start, end


def _names(labels: list, one: bool) -> list[str]:
    # HEAR writes the labels of some tasks as numbers, pitches for one.
    if not all(type(label) in (str, int, float) for label in labels) or (one and len(labels) != 1):
        expected = "one name" if one else "names"
        raise HearMwmaeError(f"labels of a clip are {expected}, not {labels!r}")
    return [str(label) for label in labels]


def _check_learnable(task: Task) -> None:
    for held_out in task.tested:
        others = [split for number, split in enumerate(task.splits) if number != held_out]
        known = set().union(*map(task.names_in, others))
        name = task.split_names[held_out]
        if task.multilabel and not known & task.names_in(task.splits[held_out]):
            raise HearMwmaeError(f"{name} has no label that the other splits have")
        if not task.multilabel and len(known) < 2:
            raise HearMwmaeError(f"beside {name}, all clips have the label {known.pop()!r}")
