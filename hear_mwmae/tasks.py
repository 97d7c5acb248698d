"""HEAR task folders, as HEAR's preprocessing writes them.

TASK/task_metadata.json    kind of the task, its splits, its metric
TASK/labelvocabulary.csv   every label with its number: idx,label
TASK/SPLIT.json            file name -> list of labels
TASK/16000/SPLIT/FILE      the audio at 16 kHz
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StrictFloat, StrictInt, StrictStr, model_validator

from .errors import HearMwmaeError, checked
from .files import read_json

METADATA = "task_metadata.json"
VOCABULARY = "labelvocabulary.csv"
#: Sample rate of the audio. HEAR tasks have a folder of audio for each rate.
SAMPLE_RATE = 16000

FileName = Annotated[str, Field(pattern="^[^/]+$")]
#: HEAR writes the labels of some tasks as numbers, pitches for one.
Label = StrictStr | StrictInt | StrictFloat
OneLabel = Annotated[list[Label], Field(min_length=1, max_length=1)]
#: Content of SPLIT.json, by the kind of the task.
SPLIT = {
    "multiclass": Annotated[dict[FileName, OneLabel], Field(min_length=1)],
    "multilabel": Annotated[dict[FileName, list[Label]], Field(min_length=1)],
}


class Metadata(BaseModel):
    """What is read of task_metadata.json."""

    task_name: str = ""
    embedding_type: Literal["scene"]
    prediction_type: Literal["multiclass", "multilabel"]
    split_mode: Literal["trainvaltest", "new_split_kfold", "presplit_kfold"]
    splits: list[str] = Field(min_length=2)

    @model_validator(mode="after")
    def _splits_can_be_tested(self) -> Metadata:
        if len(set(self.splits)) < len(self.splits):
            raise HearMwmaeError(f"the splits must differ, got {self.splits}")
        if self.split_mode == "trainvaltest" and "test" not in self.splits:
            raise HearMwmaeError(f"there is no split test, but {', '.join(self.splits)}")
        return self


@dataclass(frozen=True)
class Task:
    """A HEAR task: one label per clip, or any number of labels per clip.

    Attributes:
        splits: for every split the labels of each audio file.
    """

    folder: Path
    metadata: Metadata
    splits: list[dict[Path, list[str]]]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def multilabel(self) -> bool:
        """Whether a clip may have any number of labels."""
        return self.metadata.prediction_type == "multilabel"

    @property
    def tested(self) -> list[int]:
        """Indices of the splits that are held out in turn: all folds, or the test split alone."""
        if self.metadata.split_mode == "trainvaltest":
            return [self.metadata.splits.index("test")]
        return list(range(len(self.splits)))

    def others(self, held_out: int) -> list[int]:
        """Indices of the splits to train on: all but the one that is held out."""
        return [number for number in range(len(self.splits)) if number != held_out]

    @property
    def labels(self) -> list[str]:
        """All names of labels, sorted."""
        return sorted(_labels_in(self.splits))


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


def read_metadata(folder: Path) -> Metadata:
    """The metadata of a task. HearMwmaeError names the file and the key that is wrong."""
    file = folder / METADATA
    return checked(Metadata, read_json(file), file)


def read_task(folder: str | Path, sample_rate: int = SAMPLE_RATE) -> Task:
    """Read a task.

    HearMwmaeError if ``folder`` is not a task, if audio files are missing, or if there is nothing
    to learn because all clips to train on have the same label.

    Args:
        sample_rate: of the audio files that the task names.
    """
    folder = Path(folder)
    metadata = read_metadata(folder)
    splits = [_read_split(folder, name, metadata, sample_rate) for name in metadata.splits]
    task = Task(folder, metadata, splits)
    for held_out in task.tested:
        known = _labels_in(task.splits[number] for number in task.others(held_out))
        if not task.multilabel and len(known) < 2:
            name = metadata.splits[held_out]
            raise HearMwmaeError(f"{folder}: beside {name}, all clips have the label {min(known)}")
    return task


def _read_split(
    folder: Path, split: str, metadata: Metadata, sample_rate: int
) -> dict[Path, list[str]]:
    file = folder / f"{split}.json"
    found = checked(SPLIT[metadata.prediction_type], read_json(file), file)
    audio = folder / str(sample_rate) / split
    missing = [name for name in found if not (audio / name).is_file()]
    if missing:
        count = f"{len(missing)} of {len(found)} files missing"
        raise HearMwmaeError(f"{audio}: {count}, such as {missing[0]}")
    return {audio / name: [str(label) for label in labels] for name, labels in found.items()}


def _labels_in(splits: Iterable[dict[Path, list[str]]]) -> set[str]:
    return {label for split in splits for labels in split.values() for label in labels}
