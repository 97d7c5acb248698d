"""Four small tasks in HEAR's format, for tuning recipes. The recipes use none of their sources.

    python -m research.corpora.dev_tasks DEST

README.md describes them. They are not a benchmark: a drum hit occurs several times, with another
loudness and other noise.
"""

import csv
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import soundfile

from hear_mwmae.cli.options import Command
from hear_mwmae.files import write_text

from .debian_audio import decode, download, extract
from .manifest import SAMPLE_RATE
from .soundfont import DRUM_CHANNEL, LARGEST_BEND, Note, render
from .speech import words
from .voices import HELD_OUT, Utterance, speak

SOUNDFONT = Path("/usr/share/sounds/sf2/TimGM6mb.sf2")
EVERYDAY = Path(__file__).with_name("everyday.csv")
FOLDS = 4
SLOT, VELOCITIES = 2.6, (30, 127)
INSTRUMENTS, NOTES_EACH, PITCHES = 96, 10, (36, 83)
TUNED_DRUMS = (36, 37, 38, 39, 40, 41, 43, 45, 47, 48, 50, 54, 56, *range(60, 69), 76, 77)
TUNINGS, HITS_EACH = (-2.0, -1.2, -0.4, 0.4, 1.2, 2.0), 5
#: Signal-to-noise ratios, in decibels between the peaks.
NOISE = (6, 30)
WORDS, WORD_LETTERS, TIMES_SAID = 30, (4, 8), 4
MOST_SECONDS = 5


class Clip(NamedTuple):
    """A sound of a task: (samples,) at 16 kHz, the fold it belongs to, its label."""

    sound: np.ndarray
    fold: int
    label: str


def pitch_task(rng: np.random.Generator) -> list[Clip]:
    """Notes; folds by instrument."""
    programs = np.repeat(np.arange(INSTRUMENTS), NOTES_EACH)
    pitches = rng.integers(PITCHES[0], PITCHES[1] + 1, len(programs))
    velocities = rng.integers(VELOCITIES[0], VELOCITIES[1] + 1, len(programs))
    drawn = zip(programs.tolist(), pitches.tolist(), velocities.tolist(), strict=True)
    notes = [Note(0, *numbers, 1.0) for numbers in drawn]
    sounds = render(SOUNDFONT, [[note] for note in notes], SLOT)
    return [
        Clip(sound, note.program % FOLDS, str(note.pitch))
        for sound, note in zip(sounds, notes, strict=True)
    ]


def tuning_task(rng: np.random.Generator) -> list[Clip]:
    """Drum hits in noise; folds are drawn."""
    hits = [(d, tuning) for d in TUNED_DRUMS for tuning in TUNINGS for _ in range(HITS_EACH)]
    velocities = rng.integers(VELOCITIES[0], VELOCITIES[1] + 1, len(hits)).tolist()
    folds = rng.permutation(np.arange(len(hits)) % FOLDS).tolist()
    notes = []
    for (drum, tuning), velocity in zip(hits, velocities, strict=True):
        bend = round(tuning / 2 * LARGEST_BEND)
        notes.append(Note(DRUM_CHANNEL, 0, drum, velocity, 0.5, bend))
    sounds = render(SOUNDFONT, [[note] for note in notes], SLOT)
    return [
        Clip(_in_noise(sound, rng), fold, f"{tuning:+.1f}")
        for sound, fold, (_, tuning) in zip(sounds, folds, hits, strict=True)
    ]


def _in_noise(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if not len(sound):
        return sound
    noise = rng.standard_normal(len(sound)).astype(np.float32)
    level = np.abs(sound).max() * 10 ** (-rng.uniform(*NOISE) / 20)
    mixed = sound + noise / np.abs(noise).max() * level
    return mixed / max(np.abs(mixed).max(), 1)


def words_task(rng: np.random.Generator) -> list[Clip]:
    """Words, each said several times by every voice, slower or faster, higher or lower; folds by
    voice.
    """
    known = [word for word in words("en") if WORD_LETTERS[0] <= len(word) <= WORD_LETTERS[1]]
    chosen = [str(word) for word in rng.choice(known, WORDS, replace=False)]
    clips = []
    for fold, voice in enumerate(HELD_OUT):
        said = [
            Utterance(word, rng.uniform(0.75, 1.25), rng.uniform(0.85, 1.15))
            for word in chosen
            for _ in range(TIMES_SAID)
        ]
        for sound, utterance in zip(speak(voice, said), said, strict=True):
            clips.append(Clip(sound, fold, utterance.text))
    return clips


def everyday_task(rng: np.random.Generator) -> list[Clip]:
    """The first seconds of the sounds of everyday.csv; folds are drawn, each kind evenly over
    all.
    """
    with EVERYDAY.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sounds = defaultdict(list)
    files = {}
    with tempfile.TemporaryDirectory() as place:
        for package in {row["package"] for row in rows}:
            folder = Path(place, package)
            unpacked = extract(download(package, folder), folder / "files")
            files[package] = {path.stem: path for path in unpacked}
        for row in rows:
            for name in row["names"].split():
                sound = decode(files[row["package"]][name])[: MOST_SECONDS * SAMPLE_RATE]
                sounds[row["class"]].append(sound / max(1, np.abs(sound).max()))
    clips = []
    for label, found in sorted(sounds.items()):
        folds = rng.permutation(np.arange(len(found)) % FOLDS).tolist()
        clips += [Clip(sound, fold, label) for sound, fold in zip(found, folds, strict=True)]
    return clips


def write_task(folder: Path, clips: Sequence[Clip]) -> int:
    """Write a single-label scene task; sounds that are empty are left out.

    Returns the number of clips.
    """
    splits: dict[str, dict[str, list[str]]] = {f"fold{fold:02d}": {} for fold in range(FOLDS)}
    for number, (sound, fold, label) in enumerate(clips):
        if len(sound):
            split, name = f"fold{fold:02d}", f"{number:05d}.wav"
            audio = folder / str(SAMPLE_RATE) / split
            audio.mkdir(parents=True, exist_ok=True)
            soundfile.write(audio / name, sound, SAMPLE_RATE)
            splits[split][name] = [label]
    for split, labelled in splits.items():
        write_text(folder / f"{split}.json", json.dumps(labelled, indent=1) + "\n")
    names = sorted({clip.label for clip in clips})
    rows = [f"{number},{name}\n" for number, name in enumerate(names)]
    write_text(folder / "labelvocabulary.csv", "idx,label\n" + "".join(rows))
    metadata = {
        "task_name": folder.name,
        "version": "v1",
        "embedding_type": "scene",
        "prediction_type": "multiclass",
        "split_mode": "new_split_kfold",
        "splits": list(splits),
        "evaluation": ["top1_acc"],
        "sample_duration": None,
    }
    write_text(folder / "task_metadata.json", json.dumps(metadata, indent=1) + "\n")
    return sum(map(len, splits.values()))


TASKS = {
    "pitch": pitch_task,
    "tuning": tuning_task,
    "words": words_task,
    "everyday": everyday_task,
}


@click.command(cls=Command, help=__doc__)
@click.argument("dest", type=click.Path(file_okay=False, path_type=Path))
def main(dest: Path) -> None:
    for name, make in TASKS.items():
        clips = write_task(dest / name, make(np.random.default_rng(0)))
        click.echo(f"{name}: {clips} clips -> {dest / name}")


if __name__ == "__main__":
    main()
