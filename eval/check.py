"""Whether HEAR's kit can embed and predict a task: `python -m eval check`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import soundfile

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.tasks import (
    METADATA,
    SAMPLE_RATE,
    VOCABULARY,
    Task,
    audio_faults,
    read_task,
    unreadable_labels,
)

from .kit import known_scores

#: Keys of a task's metadata that heareval reads, except those that every reader of tasks needs.
REQUIRED = {"task_name", "sample_duration", "evaluation"}
SPLIT_MODES = ("trainvaltest", "new_split_kfold", "presplit_kfold")
#: Folds that heareval needs: to test, to validate, to train.
FEWEST_FOLDS = 3
#: Seconds that a clip may differ from the task's sample_duration: roundings of resampling.
TOLERANCE = 0.01


def problems_of(folder: Path, sample_rate: int = SAMPLE_RATE) -> list[str]:
    """Problems of a task folder for heareval, including the headers of its audio files; [] if it
    is complete.
    """
    try:
        task = read_task(folder, sample_rate, audio=False)
    except HearMwmaeError as error:
        return [str(error)]
    problems = _metadata_problems(task.metadata) + _label_problems(task)
    return problems + _audio_problems(task, sample_rate)


def _metadata_problems(metadata: dict[str, Any]) -> list[str]:
    if missing := sorted(REQUIRED - metadata.keys()):
        return [f"{METADATA} has no {', '.join(missing)}"]
    problems = []
    known = known_scores()
    asked = metadata["evaluation"]
    if not isinstance(asked, list) or not asked or not all(name in known for name in asked):
        problems.append(f"evaluation must list scores of {', '.join(known)}, got {asked}")
    mode, splits = metadata["split_mode"], metadata["splits"]
    if mode not in SPLIT_MODES:
        problems.append(f"split_mode must be one of {', '.join(SPLIT_MODES)}, got {mode!r}")
    elif mode == "trainvaltest":
        if set(splits) != {"train", "valid", "test"}:
            problems.append(f"the splits must be train, valid and test, got {', '.join(splits)}")
    elif len(splits) < FEWEST_FOLDS:
        problems.append(f"there must be {FEWEST_FOLDS} folds or more, got {', '.join(splits)}")
    return problems


def _label_problems(task: Task) -> list[str]:
    try:
        unknown = unreadable_labels(task.folder, task.labels)
    except HearMwmaeError as error:
        return [str(error)]
    if not unknown:
        return []
    return [
        f"{VOCABULARY} lacks {len(unknown)} of {len(task.labels)} labels, such as {unknown[0]}, as "
        "the kit reads it: by pandas, which takes NA for a missing value and 060 for a number"
    ]


def _audio_problems(task: Task, sample_rate: int) -> list[str]:
    seconds = task.metadata.get("sample_duration")
    if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
        return [f"sample_duration must be seconds, or null, got {seconds!r}"]
    lengths: Counter[int] = Counter()

    def fault_of(path: Path) -> str:
        try:
            info = soundfile.info(path)
        except soundfile.SoundFileError:
            return "unreadable" if path.is_file() else "missing"
        if not info.frames:
            return "empty"
        if info.samplerate != sample_rate:
            return f"at {info.samplerate} Hz"
        if info.channels != 1:
            return f"with {info.channels} channels"
        lengths[info.frames] += 1
        if seconds is not None and abs(info.duration - seconds) > TOLERANCE:
            return f"not {seconds:g} s long, which is their sample_duration"
        return ""

    problems = audio_faults(task, fault_of)
    if seconds is not None and not problems and len(lengths) > 1:
        shortest, longest = min(lengths), max(lengths)
        problems.append(f"clips have {shortest} to {longest} samples: the kit needs equal lengths")
    return problems
