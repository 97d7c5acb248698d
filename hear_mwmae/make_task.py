"""A HEAR task of one's own audio: a folder per label, or a .csv of paths and labels."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import soundfile
from tqdm import tqdm

from .audio import find_audio, is_hidden, read_audio
from .errors import HearMwmaeError
from .tasks import METADATA, SAMPLE_RATE, VOCABULARY, Task, read_task, unreadable_labels

#: The splits of a task that has no folds.
SPLITS = ("train", "valid", "test")
#: What HEAR's kit needs: one fold to test, one to validate, one to train.
FEWEST_FOLDS = 3


@dataclass(frozen=True)
class LabelledClip:
    """An audio file with its label, and its fold or split where one is given."""

    path: Path
    label: str
    split: str = ""


def make_task(source: Path, out: Path, folds: int = 5) -> Task:
    """Make the task folder ``out`` of the audio in ``source``; it appears when it is complete.

    HearMwmaeError if ``source`` is no such folder or .csv, if audio cannot be read, if ``out``
    exists, or if HEAR's kit could not read the labels.

    Args:
        source: a folder with a folder of audio for each label; or a .csv with the columns path and
            label, and perhaps fold or split.
        folds: into which the clips of each label are dealt, if ``source`` has none.
    """
    if out.exists():
        raise HearMwmaeError(f"{out} exists: remove it, or give the task another name")
    if source.is_dir():
        clips, column = _clips_of_folder(source), ""
    else:
        clips, column = _clips_of_csv(source)
    labels = sorted({clip.label for clip in clips})
    if len(labels) < 2:
        raise HearMwmaeError(f"{source}: a task needs two labels or more, found {labels}")
    splits = _split(clips, column, folds)
    partial = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
    partial.mkdir(parents=True)
    try:
        _write_vocabulary(partial, labels)
        seconds = _write_splits(partial, splits)
        _write_metadata(partial, out.name, list(splits), column, seconds)
        read_task(partial)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return read_task(out)


def _clips_of_folder(folder: Path) -> list[LabelledClip]:
    clips = []
    for below in sorted(folder.iterdir()):
        if below.is_dir() and not is_hidden(below.name):
            clips += [LabelledClip(path, below.name) for path in find_audio([below])]
    if not clips:
        raise HearMwmaeError(f"{folder} must hold a folder of audio files for each label")
    return clips


def _clips_of_csv(file: Path) -> tuple[list[LabelledClip], str]:
    """The clips, and the name of the column that splits them: "fold", "split" or none."""
    try:
        with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            rows = list(csv.DictReader(stream))
    except csv.Error as error:
        raise HearMwmaeError(f"{file} is no CSV: {error}") from error
    found = set(rows[0]) if rows else set()
    if not {"path", "label"} <= found:
        raise HearMwmaeError(f"{file} must have rows with the columns path and label")
    if {"fold", "split"} <= found:
        raise HearMwmaeError(f"{file} has the columns fold and split: one of them is enough")
    column = next((name for name in ("fold", "split") if name in found), "")
    clips = []
    for number, row in enumerate(rows, start=2):
        values = [row[name] for name in ("path", "label", column) if name]
        if not all(values):
            raise HearMwmaeError(f"{file}, line {number}: a value is missing")
        path, label, *split = values
        clips.append(LabelledClip(file.parent / path, label, *split))
    return clips, column


def _split(clips: list[LabelledClip], column: str, folds: int) -> dict[str, list[LabelledClip]]:
    """The clips of every split, by its name in the task."""
    if not column:
        return _deal(clips, folds)
    values = {clip.split for clip in clips}
    if column == "split":
        if values != set(SPLITS):
            raise HearMwmaeError(
                f"the column split must hold {', '.join(SPLITS)}, and nothing else, got "
                f"{', '.join(sorted(values))}"
            )
        return {name: [clip for clip in clips if clip.split == name] for name in SPLITS}
    if len(values) < FEWEST_FOLDS:
        raise HearMwmaeError(f"the column fold must hold {FEWEST_FOLDS} folds or more")
    ordered = sorted(values, key=lambda value: (len(value), value))  # 2 before 10
    splits = {}
    for number, value in enumerate(ordered):
        splits[f"fold{number:02d}"] = [clip for clip in clips if clip.split == value]
    return splits


def _deal(clips: list[LabelledClip], folds: int) -> dict[str, list[LabelledClip]]:
    """Shuffle the clips of every label, and deal them into folds of equal sizes."""
    splits: dict[str, list[LabelledClip]] = {f"fold{number:02d}": [] for number in range(folds)}
    shuffled = random.Random(0).sample(clips, len(clips))
    for number, clip in enumerate(sorted(shuffled, key=lambda clip: clip.label)):
        splits[f"fold{number % folds:02d}"].append(clip)
    if not all(splits.values()):
        raise HearMwmaeError(f"{len(clips)} clips are too few for {folds} folds")
    return splits


def _write_vocabulary(folder: Path, labels: list[str]) -> None:
    with open(folder / VOCABULARY, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["idx", "label"])
        writer.writerows(enumerate(labels))
    if lost := unreadable_labels(folder, labels):
        raise HearMwmaeError(
            f"HEAR's kit would misread the label {lost[0]!r} as a number or a missing value: give "
            "it another name"
        )


def _write_splits(folder: Path, splits: dict[str, list[LabelledClip]]) -> float | None:
    """Write labels and audio; returns the length of all clips in seconds, None if they differ."""
    lengths: Counter[int] = Counter()
    number = 0
    with tqdm(total=sum(map(len, splits.values())), desc="task", unit="clip", leave=False) as bar:
        for name, clips in splits.items():
            audio = folder / str(SAMPLE_RATE) / name
            audio.mkdir(parents=True)
            labels = {}
            for clip in clips:
                samples = read_audio(clip.path, SAMPLE_RATE)
                # Numbered, because files of one name may come from several folders.
                stem = re.sub(r"[^\w.-]", "_", clip.path.stem)
                written = f"{number:05d}-{stem}.wav"
                # Float, so that loud samples are not cut off.
                soundfile.write(audio / written, samples, SAMPLE_RATE, subtype="FLOAT")
                labels[written] = [clip.label]
                lengths[len(samples)] += 1
                number += 1
                bar.update()
            (folder / f"{name}.json").write_text(json.dumps(labels, indent=1) + "\n")
    return next(iter(lengths)) / SAMPLE_RATE if len(lengths) == 1 else None


def _write_metadata(
    folder: Path, name: str, splits: list[str], column: str, seconds: float | None
) -> None:
    metadata = {
        "task_name": name,
        "version": "own",
        "embedding_type": "scene",
        "prediction_type": "multiclass",
        "split_mode": "trainvaltest" if column == "split" else "new_split_kfold",
        "sample_duration": seconds,
        "evaluation": ["top1_acc"],
        "splits": splits,
    }
    (folder / METADATA).write_text(json.dumps(metadata, indent=1) + "\n")
