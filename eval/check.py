"""Whether HEAR's kit can embed and predict a task: `python -m eval check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas
import soundfile
from pydantic import Field, PositiveFloat, Strict, model_validator

from hear_mwmae.errors import HearMwmaeError, checked, reason
from hear_mwmae.files import read_json
from hear_mwmae.tasks import METADATA, SAMPLE_RATE, VOCABULARY, Metadata, Task, read_task

from .kit import known_scores

#: Seconds that a clip may differ from the task's sample_duration: roundings of resampling.
TOLERANCE = 0.01


class KitMetadata(Metadata):
    """What heareval reads of task_metadata.json, beside what every reader of tasks needs."""

    task_name: str
    sample_duration: Annotated[PositiveFloat, Strict()] | None
    evaluation: list[str] = Field(min_length=1)
    #: One to train on, one to validate, one to test.
    splits: list[str] = Field(min_length=3)

    @model_validator(mode="after")
    def _can_be_predicted(self) -> KitMetadata:
        if self.split_mode == "trainvaltest" and set(self.splits) != {"train", "valid", "test"}:
            raise HearMwmaeError(f"the splits must be train, valid and test, got {self.splits}")
        if unknown := set(self.evaluation) - set(known_scores()):
            raise HearMwmaeError(f"evaluation lists {min(unknown)}, which heareval does not know")
        return self


def problems_of(folder: Path, sample_rate: int = SAMPLE_RATE) -> list[str]:
    """Problems of a task folder for heareval, including the headers of its audio files; [] if it
    is complete.
    """
    try:
        metadata: KitMetadata = checked(KitMetadata, read_json(folder / METADATA), METADATA)
        task = read_task(folder, sample_rate)
        return _label_problems(task) + _audio_problems(task, sample_rate, metadata.sample_duration)
    except HearMwmaeError as error:
        return [str(error)]


def _label_problems(task: Task) -> list[str]:
    try:
        vocabulary = pandas.read_csv(task.folder / VOCABULARY)
        numbers, known = vocabulary["idx"], vocabulary["label"].astype(str)
    except (OSError, ValueError, KeyError) as error:
        return [f"{VOCABULARY} needs the columns idx and label: {reason(error)}"]
    if set(numbers) != set(range(len(known))) or not known.is_unique:
        return [f"{VOCABULARY} must number every label once, from 0"]
    unknown = sorted(set(task.labels) - set(known))
    if not unknown:
        return []
    return [
        f"{VOCABULARY} lacks {len(unknown)} of {len(task.labels)} labels, such as {unknown[0]}, as "
        "the kit reads it: by pandas, which takes NA for a missing value and 060 for a number"
    ]


def _audio_problems(task: Task, sample_rate: int, seconds: float | None) -> list[str]:
    problems = []
    lengths = set()
    for name, split in zip(task.metadata.splits, task.splits, strict=True):
        faults: dict[str, list[str]] = {}
        for path in split:
            frames, fault = _inspect(path, sample_rate, seconds)
            lengths.add(frames)
            if fault:
                faults.setdefault(fault, []).append(path.name)
        for fault, files in faults.items():
            count = f"{len(files)} of {len(split)} files"
            problems.append(f"{sample_rate}/{name}: {count} {fault}, such as {files[0]}")
    if seconds is not None and len(lengths) > 1 and not problems:
        few, many = min(lengths), max(lengths)
        problems.append(f"clips have {few} to {many} samples, where the kit needs equal lengths")
    return problems


def _inspect(path: Path, sample_rate: int, seconds: float | None) -> tuple[int, str]:
    """The samples of an audio file, and what is wrong with it; "" for nothing."""
    try:
        info = soundfile.info(path)
    except soundfile.SoundFileError:
        return 0, "unreadable"
    fault = ""
    if not info.frames:
        fault = "empty"
    elif info.samplerate != sample_rate:
        fault = f"at {info.samplerate} Hz"
    elif info.channels != 1:
        fault = f"with {info.channels} channels"
    elif seconds is not None and abs(info.duration - seconds) > TOLERANCE:
        fault = f"not {seconds:g} s long, which is their sample_duration"
    return info.frames, fault
