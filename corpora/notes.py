"""Single notes, drum hits and random music, played with the soundfonts of Debian packages.

    python -m corpora.notes DEST [--batches 120] [--seed 0] [--jobs 2]

Half of the batches are single notes and hits (kind "rendered"): any instrument, any pitch from A0
to C8, any velocity, held from 0.1 to 3.2 s, half of them out of tune. The others (kind "scores")
are ten seconds each of random music: one to four parts in a scale, melodies or chords, with or
without drums. TimGM6mb is reserved for the development tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from hear_mwmae.cli.options import Command, jobs_option
from hear_mwmae.errors import HearMwmaeError

from .manifest import Source, render_batches
from .procedural import SCALES, log_uniform
from .soundfont import DRUM_CHANNEL, LARGEST_BEND, LEAD, Note, render
from .speech import version_of

FOLDER = Path("/usr/share/sounds/sf2")
#: Soundfont -> its Debian package, its licence, whether it has instruments beside drums, and its
#: share of the batches.
FONTS = {
    "MuseScore_General_Full.sf2": ("musescore-general-soundfont-lossless", "MIT", True, 0.35),
    "FluidR3_GM.sf2": ("fluid-soundfont-gm", "MIT", True, 0.33),
    "OPL-3_FM_128M.sf2": ("opl3-soundfont", "CC-BY-SA-4.0", True, 0.12),
    "sf_GMbank.sf2": ("csound-soundfont", "public-domain", True, 0.1),
    "Black_Pearl_4_LV2.sf2": ("avldrums.lv2-soundfont", "CC-BY-SA-3.0", False, 0.05),
    "Red_Zeppelin_4_LV2.sf2": ("avldrums.lv2-soundfont", "CC-BY-SA-3.0", False, 0.05),
}
NOTES_EACH, NOTE_SLOT = 150, 4.0
SCORES_EACH, SCORE_SLOT = 30, 10.0
HOLD_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6, 2.4, 3.2)
PROGRAMS, PITCHES, DRUMS, VELOCITIES = 128, (21, 108), (27, 87), (30, 127)
#: Numbers of General MIDI's and Roland's drum kits.
KITS = (0, 8, 16, 24, 25, 32, 40, 48)
DRUM_SHARE = 0.2


def between(r: np.random.Generator, ends: tuple[int, int]) -> int:
    """A random whole number from one end to the other, both included."""
    return int(r.integers(ends[0], ends[1] + 1))


def draw_hit(r: np.random.Generator) -> Note:
    """A drum, out of tune."""
    bend = between(r, (-LARGEST_BEND, LARGEST_BEND))
    return Note(DRUM_CHANNEL, int(r.choice(KITS)), between(r, DRUMS), between(r, VELOCITIES), 0.5, bend)


def draw_note(r: np.random.Generator) -> Note:
    """Of any instrument, half of them out of tune."""
    bend = between(r, (-LARGEST_BEND, LARGEST_BEND)) if r.random() < 0.5 else 0
    program, hold = int(r.integers(PROGRAMS)), float(r.choice(HOLD_SECONDS))
    return Note(0, program, between(r, PITCHES), between(r, VELOCITIES), hold, bend)


def draw_score(r: np.random.Generator, instruments: bool) -> list[Note]:
    """Ten seconds of music: parts that walk in a scale, each in a rhythm that repeats, and a
    pattern of drums.
    """
    beat, scale, tonic = log_uniform(r, 0.12, 0.6), SCALES[r.integers(len(SCALES))], between(r, (30, 90))
    bend = between(r, (-LARGEST_BEND // 2, LARGEST_BEND // 2))
    notes = []
    for channel in range(int(r.integers(1, 5)) if instruments else 0):
        program, register, level = int(r.integers(PROGRAMS)), tonic + 12 * between(r, (-2, 1)), between(r, (60, 127))
        rhythm, chord, leap = r.choice([0.5, 1, 1, 1.5, 2, 4], int(r.integers(2, 7))), r.random() < 0.25, r.uniform(0.5, 3)
        begin, step, number = LEAD, between(r, (-4, 4)), 0
        while begin < SCORE_SLOT - 0.2:
            seconds = beat * rhythm[number % len(rhythm)]
            for degree in (step, step + 2, step + 4) if chord else (step,):
                octave, place = divmod(degree, len(scale))
                pitch = int(np.clip(register + 12 * octave + scale[place], *PITCHES))
                if r.random() < 0.9:
                    velocity = int(np.clip(level + r.normal(0, 8), 20, 127))
                    notes.append(Note(channel, program, pitch, velocity, float(seconds * r.uniform(0.5, 1)), bend, float(begin)))
            begin, step, number = begin + seconds, int(np.clip(step + np.round(r.normal(0, leap)), -10, 10)), number + 1
    if not instruments or r.random() < 0.4:
        notes += draw_drums(r, beat)
    return notes


def draw_drums(r: np.random.Generator, beat: float) -> list[Note]:
    """Two to five drums of a kit, each with its own pattern."""
    kit, steps, notes = int(r.choice(KITS)), int(r.integers(4, 17)), []
    for drum in r.integers(DRUMS[0], DRUMS[1] + 1, int(r.integers(2, 6))):
        struck = r.random(steps) < r.uniform(0.1, 0.6)
        struck[r.integers(steps)] = True
        for number in range(int((SCORE_SLOT - 0.2) / (beat / 2))):
            if struck[number % steps]:
                notes.append(Note(DRUM_CHANNEL, kit, int(drum), between(r, (50, 127)), 0.3, 0, LEAD + number * beat / 2))
    return notes


def render_batch(batch: tuple[int, int, str, bool]) -> Iterator[tuple[str, np.ndarray]]:
    """Single notes or pieces of music of one soundfont."""
    seed, index, font, scores = batch
    r, instruments = np.random.default_rng([seed, index]), FONTS[font][2]
    if scores:
        slots, slot = [draw_score(r, instruments) for _ in range(SCORES_EACH)], SCORE_SLOT
    else:
        hits = [not instruments or r.random() < DRUM_SHARE for _ in range(NOTES_EACH)]
        slots, slot = [[draw_hit(r) if hit else draw_note(r)] for hit in hits], NOTE_SLOT
    if not instruments:  # such a soundfont has its drums where others have the first instrument
        slots = [[note._replace(channel=0, program=0) for note in notes] for notes in slots]
    for number, sound in enumerate(render(FOLDER / font, slots, slot, room=scores and bool(r.random() < 0.5))):
        if len(sound):
            yield f"{Path(font).stem}/{index:04d}-{number:03d}", sound


@click.command(cls=Command, help=__doc__)
@click.argument("dest", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--batches",
    default=120,
    show_default=True,
    type=click.IntRange(1),
    help=f"Of {NOTES_EACH} notes or {SCORES_EACH} pieces, one soundfont each.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@jobs_option()
def main(dest: Path, batches: int, seed: int, jobs: int) -> None:
    """Run the command line."""
    if missing := [font for font in FONTS if not (FOLDER / font).is_file()]:
        raise HearMwmaeError(f"no {FOLDER / missing[0]}: install the Debian package {FONTS[missing[0]][0]}")
    versions = {package: version_of(package) for package, *_ in FONTS.values()}
    shares = np.array([share for *_, share in FONTS.values()])
    chosen = np.random.default_rng(seed).choice(list(FONTS), batches, p=shares)
    todo = {}
    for index, font in enumerate(map(str, chosen)):
        package, licence, *_ = FONTS[font]
        source = Source(package, versions[package], "scores" if index % 2 else "rendered", licence)
        todo[f"{index:04d}"] = source, (seed, index, font, bool(index % 2))
    render_batches(dest, todo, render_batch, {"seed": seed, "versions": versions, "resampler": "soxr"}, jobs)


if __name__ == "__main__":
    main()
