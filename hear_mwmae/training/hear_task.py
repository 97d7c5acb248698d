"""HEAR-format tasks on disk: task_metadata.json, <split>.json with the labels, 16000/<split>/ with the audio."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import soundfile

from ..errors import HearMwmaeError

#: That of the folder of audio, for HEAR keeps one for each.
SAMPLE_RATE = 16000

#: What holds from when until when, in milliseconds.
Event = tuple[str, float, float]


@dataclass(frozen=True)
class Task:
    """One of the three kinds that HEAR has: one label per clip, any number of labels per clip, or events in time.

    Attributes:
        name: HEAR's, ``task_name``.
        events: labels are of moments, not of clips.
        multilabel: any number of labels at once; events always.
        splits: for every split the labels of each audio file: names, or for events :data:`Event`.
        tested: places of the splits that are held out in turn: all of them, or of train, valid and test the last.
        labels: all names of labels, sorted.
    """

    folder: Path
    name: str
    events: bool
    multilabel: bool
    splits: list[dict[Path, list[str] | list[Event]]]
    tested: list[int]

    @property
    def labels(self) -> list[str]:
        return sorted({name for split in self.splits for name in self.names_in(split)})

    def names_in(self, split: dict[Path, list[str] | list[Event]]) -> set[str]:
        """Names of the labels of any clip or event of ``split``."""
        return {label[0] if self.events else label for labels in split.values() for label in labels}


def read_task(folder: str | Path) -> Task:
    """Raises HearMwmaeError where ``folder`` is no task, lacks audio, or has nothing that can be learned from it."""
    folder = Path(folder)
    try:
        return _read(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, soundfile.SoundFileError) as error:
        raise HearMwmaeError(f"{folder} is not a HEAR task that can be probed: {type(error).__name__}: {error}") from error


def _read(folder: Path) -> Task:
    metadata = json.loads((folder / "task_metadata.json").read_text())
    kind, names = (metadata["embedding_type"], metadata["prediction_type"]), metadata["splits"]
    if kind not in (("scene", "multiclass"), ("scene", "multilabel"), ("event", "multilabel")):
        raise HearMwmaeError(f"tasks are scenes, multiclass or multilabel, or multilabel events, not {' '.join(kind)}")
    events, multilabel = kind[0] == "event", kind[1] == "multilabel"
    splits = []
    for name in names:
        labels = json.loads((folder / f"{name}.json").read_text())
        audio = folder / str(SAMPLE_RATE) / name
        splits.append({audio / clip: _labels(found, events, multilabel) for clip, found in labels.items()})
    tested = [names.index("test")] if metadata["split_mode"] == "trainvaltest" else list(range(len(names)))
    task = Task(folder, str(metadata["task_name"]), events, multilabel, splits, tested)
    if len(splits) < 2 or not all(splits):
        raise HearMwmaeError("there must be two splits or more, none of them empty")
    if missing := [path for split in splits for path in split if not path.is_file()]:
        raise HearMwmaeError(f"no {missing[0].relative_to(folder)}, and {len(missing) - 1} more are missing")
    for path in (path for split in splits for path in split):
        soundfile.info(path)  # headers only, which is quick; a damaged one says so with its name
    for held_out in tested:
        others = {name for number, split in enumerate(splits) if number != held_out for name in task.names_in(split)}
        if multilabel and not others & task.names_in(splits[held_out]):
            raise HearMwmaeError(f"{names[held_out]} has no label that the other splits have, too")
        if not multilabel and len(others) < 2:
            raise HearMwmaeError(f"beside {names[held_out]}, all clips have the label {others.pop()!r}")
    return task


def _labels(found: list, events: bool, multilabel: bool) -> list[str] | list[Event]:
    if events:
        return [(str(event["label"]), float(event["start"]), float(event["end"])) for event in found]
    # HEAR writes the labels of some tasks as numbers, pitches for one.
    if not all(type(label) in (str, int, float) for label in found) or not (multilabel or len(found) == 1):
        raise HearMwmaeError(f"labels of a clip are {'names' if multilabel else 'one name'}, not {found!r}")
    return [str(label) for label in found]
