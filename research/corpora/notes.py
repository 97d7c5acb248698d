"""Single notes, drum hits and random music, played with the soundfonts of Debian packages.

    python -m research.corpora.notes DEST [--batches 120] [--jobs 2]

Half of the batches are single notes and hits (kind "rendered"): any instrument, any pitch from A0
to C8, any velocity, held from 0.1 to 3.2 s, half of them out of tune. The others (kind "scores")
are ten seconds each of random music: one to four parts in a scale, melodies or chords, with or
without drums. TimGM6mb is reserved for the development tasks.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from hear_mwmae.cli.options import Command, jobs_option

from .manifest import Sound, Source, version_of, write_corpus
from .procedural import SCALES
from .signals import log_uniform
from .soundfont import DRUM_CHANNEL, LARGEST_BEND, LEAD, Note, render

FOLDER = Path("/usr/share/sounds/sf2")


class Font(NamedTuple):
    """A soundfont: its Debian package, its licence, and its share of the batches."""

    package: str
    licence: str
    share: float
    instruments: bool = True  #: beside drums


FONTS = {
    "MuseScore_General_Full.sf2": Font("musescore-general-soundfont-lossless", "MIT", 0.35),
    "FluidR3_GM.sf2": Font("fluid-soundfont-gm", "MIT", 0.33),
    "OPL-3_FM_128M.sf2": Font("opl3-soundfont", "CC-BY-SA-4.0", 0.12),
    "sf_GMbank.sf2": Font("csound-soundfont", "public-domain", 0.1),
    "Black_Pearl_4_LV2.sf2": Font("avldrums.lv2-soundfont", "CC-BY-SA-3.0", 0.05, False),
    "Red_Zeppelin_4_LV2.sf2": Font("avldrums.lv2-soundfont", "CC-BY-SA-3.0", 0.05, False),
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
    kit = int(r.choice(KITS))
    return Note(DRUM_CHANNEL, kit, between(r, DRUMS), between(r, VELOCITIES), 0.5, bend)


def draw_note(r: np.random.Generator) -> Note:
    """Of any instrument, half of them out of tune."""
    bend = between(r, (-LARGEST_BEND, LARGEST_BEND)) if r.random() < 0.5 else 0
    program = int(r.integers(PROGRAMS))
    hold = float(r.choice(HOLD_SECONDS))
    return Note(0, program, between(r, PITCHES), between(r, VELOCITIES), hold, bend)


def draw_score(r: np.random.Generator, instruments: bool) -> list[Note]:
    """Ten seconds of music: parts that walk in a scale, each in a rhythm that repeats, and a
    pattern of drums.
    """
    beat = log_uniform(r, 0.12, 0.6)
    scale = SCALES[r.integers(len(SCALES))]
    tonic = between(r, (30, 90))
    bend = between(r, (-LARGEST_BEND // 2, LARGEST_BEND // 2))
    notes = []
    if instruments:
        for channel in range(int(r.integers(1, 5))):
            notes += draw_part(r, channel, beat, scale, tonic, bend)
    if not instruments or r.random() < 0.4:
        notes += draw_drums(r, beat)
    return notes


def draw_part(
    r: np.random.Generator, channel: int, beat: float, scale: tuple[int, ...], tonic: int, bend: int
) -> list[Note]:
    """A melody, or chords, of one instrument."""
    program = int(r.integers(PROGRAMS))
    register = tonic + 12 * between(r, (-2, 1))
    level = between(r, (60, 127))
    rhythm = r.choice([0.5, 1, 1, 1.5, 2, 4], int(r.integers(2, 7)))
    chord = r.random() < 0.25
    leap = r.uniform(0.5, 3)
    begin, step, number = LEAD, between(r, (-4, 4)), 0
    notes = []
    while begin < SCORE_SLOT - 0.2:
        seconds = beat * rhythm[number % len(rhythm)]
        for degree in (step, step + 2, step + 4) if chord else (step,):
            octave, place = divmod(degree, len(scale))
            pitch = int(np.clip(register + 12 * octave + scale[place], *PITCHES))
            if r.random() < 0.9:
                velocity = int(np.clip(level + r.normal(0, 8), 20, 127))
                held = float(seconds * r.uniform(0.5, 1))
                notes.append(Note(channel, program, pitch, velocity, held, bend, float(begin)))
        begin += seconds
        step = int(np.clip(step + np.round(r.normal(0, leap)), -10, 10))
        number += 1
    return notes


def draw_drums(r: np.random.Generator, beat: float) -> list[Note]:
    """Two to five drums of a kit, each with its own pattern."""
    kit = int(r.choice(KITS))
    steps = int(r.integers(4, 17))
    notes = []
    for drum in r.integers(DRUMS[0], DRUMS[1] + 1, int(r.integers(2, 6))):
        struck = r.random(steps) < r.uniform(0.1, 0.6)
        struck[r.integers(steps)] = True
        for number in range(int((SCORE_SLOT - 0.2) / (beat / 2))):
            if struck[number % steps]:
                begin = LEAD + number * beat / 2
                velocity = between(r, (50, 127))
                notes.append(Note(DRUM_CHANNEL, kit, int(drum), velocity, 0.3, 0, begin))
    return notes


def render_batch(batch: tuple[int, str]) -> Iterator[Sound]:
    """Single notes or pieces of music of one soundfont."""
    index, font = batch
    package, licence, _, instruments = FONTS[font]
    scores = index % 2 == 1
    source = Source(package, version_of(package), "scores" if scores else "rendered", licence)
    r = np.random.default_rng([0, index])
    if scores:
        slots = [draw_score(r, instruments) for _ in range(SCORES_EACH)]
    else:
        hits = [not instruments or r.random() < DRUM_SHARE for _ in range(NOTES_EACH)]
        slots = [[draw_hit(r) if hit else draw_note(r)] for hit in hits]
    if not instruments:  # it has its drums where others have the first instrument
        slots = [[note._replace(channel=0, program=0) for note in notes] for notes in slots]
    room = scores and r.random() < 0.5
    sounds = render(FOLDER / font, slots, SCORE_SLOT if scores else NOTE_SLOT, room)
    for number, sound in enumerate(sounds):
        if len(sound):
            yield Sound(f"{Path(font).stem}/{index:04d}-{number:03d}", sound, source)


@click.command(cls=Command, help=__doc__)
@click.argument("dest", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--batches",
    default=120,
    show_default=True,
    help=f"Of {NOTES_EACH} notes or {SCORES_EACH} pieces, one soundfont each.",
)
@jobs_option()
def main(dest: Path, batches: int, jobs: int) -> None:
    shares = [font.share for font in FONTS.values()]
    drawn = np.random.default_rng(0).choice(list(FONTS), batches, p=shares)
    write_corpus(dest, list(enumerate(drawn.tolist())), render_batch, jobs)


if __name__ == "__main__":
    main()
