"""HEAR task folders on disk: task_metadata.json, <split>.json with the labels, <sample
rate>/<split>/ with the audio.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import soundfile

from ..errors import HearMwmaeError
from ..files import read_json

METADATA, VOCABULARY = "task_metadata.json", "labelvocabulary.csv"
#: Sample rate of the probed audio. HEAR tasks have a folder of audio for each rate.
SAMPLE_RATE = 16000

#: Label, start and end in milliseconds.
Event = tuple[str, float, float]


class AudioHeader(NamedTuple):
    """Length of a clip from the header of its file, or the fault of the file."""

    seconds: float
    fault: str = ""  #: "missing", "unreadable", "empty" or "at N Hz"; empty without a fault


class TaskFolder:
    """A HEAR task on disk, or its labels beside embeddings.

    Each file and each audio header is read once.

    Properties raise HearMwmaeError if their file is missing or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder)
        self.labels = lru_cache(None)(self._labels)
        self.headers = lru_cache(None)(self._headers)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The content of task_metadata.json, with a list of ``splits``."""
        file = self.path / METADATA
        found = read_json(file)
        if not isinstance(found, dict) or not isinstance(found.get("splits"), list):
            raise HearMwmaeError(f"{file} must be an object with a list of splits")
        return found

    @property
    def splits(self) -> list[str]:
        return self.metadata["splits"]

    @property
    def tested(self) -> list[str]:
        """The splits that are held out in turn: all folds, or the test split alone."""
        if "split_mode" not in self.metadata:
            raise HearMwmaeError(f"{self.path / METADATA} has no split_mode")
        return ["test"] if self.metadata["split_mode"] == "trainvaltest" else self.splits

    @property
    def is_event(self) -> bool:
        """Whether labels belong to moments, not to clips."""
        return self.metadata.get("embedding_type") == "event"

    @property
    def label_files(self) -> list[str]:
        """Names of the files beside the audio, which heareval copies to the embeddings."""
        return [METADATA, VOCABULARY, *(f"{split}.json" for split in self.splits)]

    def _labels(self, split: str) -> dict[str, list]:
        """The labels of every clip of a split, as HEAR writes them, by file name."""
        file = self.path / f"{split}.json"
        found = read_json(file)
        if not isinstance(found, dict):
            raise HearMwmaeError(f"{file} must be an object with the labels of every clip")
        return found

    @property
    def clips(self) -> int:
        """Number of clips in all splits."""
        return sum(len(self.labels(split)) for split in self.splits)

    def audio(self, split: str, sample_rate: int = SAMPLE_RATE) -> list[Path]:
        """The audio file of every clip of a split, whether it exists or not."""
        return [self.path / str(sample_rate) / split / name for name in self.labels(split)]

    def _headers(self, split: str, sample_rate: int = SAMPLE_RATE) -> dict[Path, AudioHeader]:
        """The header of every audio file of a split."""
        return {path: _read_header(path, sample_rate) for path in self.audio(split, sample_rate)}


def _read_header(path: Path, sample_rate: int) -> AudioHeader:
    try:
        info = soundfile.info(path)
    except soundfile.SoundFileError:
        return AudioHeader(0, "unreadable" if path.is_file() else "missing")
    fault = "empty" if not info.frames else "" if info.samplerate == sample_rate else f"at {info.samplerate} Hz"
    return AudioHeader(info.duration, fault)


@dataclass(frozen=True)
class ProbeTask:
    """One of HEAR's three kinds of task: one label per clip, any number of labels per clip, or
    events in time.

    Attributes:
        name: HEAR's ``task_name``.
        events: labels belong to moments, not to clips.
        multilabel: any number of labels at once; always true for events.
        splits: for every split the labels of each audio file: names, or :data:`Event` for events.
        tested: indices of the splits that are held out in turn.
        labels: all names of labels, sorted.
    """

    folder: Path
    name: str
    events: bool
    multilabel: bool
    splits: list[dict[Path, list]]
    tested: list[int]

    @property
    def labels(self) -> list[str]:
        return sorted({name for split in self.splits for name in self.names_in(split)})

    def names_in(self, split: dict[Path, list]) -> set[str]:
        """Names of the labels of any clip or event of ``split``."""
        return {label[0] if self.events else label for labels in split.values() for label in labels}


def read_task(folder: str | Path) -> ProbeTask:
    """Read a task.

    HearMwmaeError if ``folder`` is not a task, lacks audio, or cannot be learned.
    """
    try:
        return _read(TaskFolder(folder))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, HearMwmaeError) else f"{type(error).__name__}: {error}"
        raise HearMwmaeError(f"{folder} is not a HEAR task that can be probed: {reason}") from error


def _read(found: TaskFolder) -> ProbeTask:
    metadata, names = found.metadata, found.splits
    kind = metadata["embedding_type"], metadata["prediction_type"]
    if kind not in (("scene", "multiclass"), ("scene", "multilabel"), ("event", "multilabel")):
        raise HearMwmaeError(f"tasks are scenes, multiclass or multilabel, or multilabel events, not {' '.join(kind)}")
    multilabel = kind[1] == "multilabel"
    splits = []
    for name in names:
        labels = [_clip_labels(labels, found.is_event, multilabel) for labels in found.labels(name).values()]
        splits.append(dict(zip(found.audio(name), labels, strict=True)))
    tested = [names.index(name) for name in found.tested]
    task = ProbeTask(found.path, str(metadata["task_name"]), found.is_event, multilabel, splits, tested)
    if len(splits) < 2 or not all(splits):
        raise HearMwmaeError("there must be two splits or more, none of them empty")
    # Audio of another rate is resampled, and empty files are refused where they are read.
    headers = {path: header for name in names for path, header in found.headers(name).items()}
    if bad := [(path, header.fault) for path, header in headers.items() if header.fault in ("missing", "unreadable")]:
        (path, fault), others = bad[0], len(bad) - 1
        raise HearMwmaeError(f"{path.relative_to(found.path)} is {fault}" + f", and {others} more files" * bool(others))
    for held_out in tested:
        known = {name for number, split in enumerate(splits) if number != held_out for name in task.names_in(split)}
        if multilabel and not known & task.names_in(splits[held_out]):
            raise HearMwmaeError(f"{names[held_out]} has no label that the other splits have")
        if not multilabel and len(known) < 2:
            raise HearMwmaeError(f"beside {names[held_out]}, all clips have the label {known.pop()!r}")
    return task


def _clip_labels(found: list, events: bool, multilabel: bool) -> list[str] | list[Event]:
    if events:
        return [(str(event["label"]), float(event["start"]), float(event["end"])) for event in found]
    # HEAR writes the labels of some tasks as numbers, pitches for one.
    if not all(type(label) in (str, int, float) for label in found) or not (multilabel or len(found) == 1):
        raise HearMwmaeError(f"labels of a clip are {'names' if multilabel else 'one name'}, not {found!r}")
    return [str(label) for label in found]
