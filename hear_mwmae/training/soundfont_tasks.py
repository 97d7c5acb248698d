"""Two small HEAR-format tasks of pitch, rendered from a soundfont, to look at while tuning a recipe.

    python -m hear_mwmae.training.soundfont_tasks /usr/share/sounds/sf2/TimGM6mb.sf2 DEST

``DEST/pitch``: 960 notes of 96 instruments, which of 48 pitches is it; the instruments tested on are not those trained on.
``DEST/tuning``: 720 drum hits in noise, which of six tunings, 0.8 semitones apart, are they. Take another soundfont than that
of the pretraining data. They are no benchmark: a hit comes back as the same recording, but for its loudness and the noise.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import soundfile

from ..commands import Command
from ..files import write_text
from .debian_audio import SAMPLE_RATE
from .soundfont import DRUM_CHANNEL, LARGEST_BEND, VELOCITIES, Note, render

FOLDS = 4
INSTRUMENTS, NOTES_EACH, PITCHES = 96, 10, (36, 83)
TUNED_DRUMS = (36, 37, 38, 39, 40, 41, 43, 45, 47, 48, 50, 54, 56, *range(60, 69), 76, 77)
TUNINGS, HITS_EACH = (-2.0, -1.2, -0.4, 0.4, 1.2, 2.0), 5
#: Signal-to-noise ratios, in decibels between the peaks.
NOISE = (6, 30)


def pitch_task(rng: np.random.Generator) -> tuple[list[Note], list[int], list[str]]:
    """Notes, their folds (by instrument), and their labels."""
    programs = np.repeat(np.arange(INSTRUMENTS), NOTES_EACH)
    pitches = rng.integers(PITCHES[0], PITCHES[1] + 1, len(programs))
    velocities = rng.integers(VELOCITIES[0], VELOCITIES[1] + 1, len(programs))
    notes = [Note(0, int(p), int(q), int(v), 1.0, 0) for p, q, v in zip(programs, pitches, velocities, strict=True)]
    return notes, [note.program % FOLDS for note in notes], [str(note.pitch) for note in notes]


def tuning_task(rng: np.random.Generator) -> tuple[list[Note], list[int], list[str]]:
    """As pitch_task, of drum hits; folds are drawn."""
    hits = [(drum, tuning) for drum in TUNED_DRUMS for tuning in TUNINGS for _ in range(HITS_EACH)]
    velocities = rng.integers(VELOCITIES[0], VELOCITIES[1] + 1, len(hits))
    bends = [round(tuning / 2 * LARGEST_BEND) for _, tuning in hits]
    notes = [Note(DRUM_CHANNEL, 0, drum, int(v), 0.5, bend) for (drum, _), v, bend in zip(hits, velocities, bends, strict=True)]
    return notes, rng.permutation(np.arange(len(notes)) % FOLDS).tolist(), [f"{tuning:+.1f}" for _, tuning in hits]


def write_task(folder: Path, sounds: list[np.ndarray], folds: list[int], labels: list[str]) -> int:
    """A single-label scene task; sounds that are empty are left out. Returns the number of clips."""
    splits: dict[str, dict[str, list[str]]] = {f"fold{fold:02d}": {} for fold in range(FOLDS)}
    for number, (sound, fold, label) in enumerate(zip(sounds, folds, labels, strict=True)):
        if len(sound):
            split, name = f"fold{fold:02d}", f"{number:05d}.wav"
            audio = folder / str(SAMPLE_RATE) / split
            audio.mkdir(parents=True, exist_ok=True)
            soundfile.write(audio / name, sound, SAMPLE_RATE)
            splits[split][name] = [label]
    for split, clips in splits.items():
        write_text(folder / f"{split}.json", json.dumps(clips, indent=1) + "\n")
    names = sorted(set(labels))
    write_text(folder / "labelvocabulary.csv", "idx,label\n" + "".join(f"{i},{name}\n" for i, name in enumerate(names)))
    metadata = {"task_name": folder.name, "version": "v1", "embedding_type": "scene", "prediction_type": "multiclass"}
    metadata |= {"split_mode": "new_split_kfold", "splits": list(splits), "evaluation": ["top1_acc"], "sample_duration": None}
    write_text(folder / "task_metadata.json", json.dumps(metadata, indent=1) + "\n")
    return sum(map(len, splits.values()))


@click.command(cls=Command, help=__doc__)
@click.argument("soundfont", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("dest", type=click.Path(file_okay=False, path_type=Path))
def main(soundfont: Path, dest: Path) -> None:
    """Run the command line."""
    rng = np.random.default_rng(0)
    for name, task in (("pitch", pitch_task), ("tuning", tuning_task)):
        notes, folds, labels = task(rng)
        sounds = render(soundfont, notes)
        if name == "tuning":
            sounds = [_in_noise(sound, rng) for sound in sounds]
        click.echo(f"{name}: {write_task(dest / name, sounds, folds, labels)} clips -> {dest / name}")


def _in_noise(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(len(sound)).astype(np.float32)
    if not len(sound):
        return sound
    level = np.abs(sound).max() * 10 ** (-rng.uniform(*NOISE) / 20)
    mixed = sound + noise / np.abs(noise).max() * level
    return mixed / max(np.abs(mixed).max(), 1)


if __name__ == "__main__":
    main()
