"""Procedural sound: clips of ten seconds, each computed from its number alone. CC0.

    python -m research.corpora.procedural DEST [--clips 9000] [--jobs 2]

Clip number i is a function of i alone. A clip is one of the forms below, played by
instruments of ``tones`` and ``percussion`` whose notes are uniform over the pitches from A0 to C8,
with or without a room, on a floor of noise.
"""

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from scipy.signal import fftconvolve

from hear_mwmae.cli.options import Command, jobs_option

from . import percussion, tones
from .manifest import SAMPLE_RATE, Sound, Source, write_corpus
from .signals import Random, draw_envelope, log_uniform
from .tones import Play

SECONDS = 10
#: A0 and the octaves up to C8.
LOWEST, OCTAVES = 27.5, 7.25
HIGHEST = LOWEST * 2**OCTAVES
#: Its version is raised when the same number makes other sounds.
SOURCE = Source("corpora.procedural", "1", "procedural", "CC0-1.0")

#: Instruments and their shares.
INSTRUMENTS = {
    tones.harmonic: 0.2,
    tones.subtractive: 0.09,
    tones.fm: 0.08,
    tones.pluck: 0.1,
    percussion.modal: 0.12,
    tones.voice: 0.13,
    percussion.gong: 0.05,
    percussion.hand_drum: 0.06,
    percussion.noise: 0.08,
    percussion.pulses: 0.05,
    tones.chirps: 0.04,
}
DECAYING = (tones.pluck, percussion.modal, percussion.gong, percussion.hand_drum)
SCALES = (
    (0, 2, 4, 5, 7, 9, 11),
    (0, 2, 3, 5, 7, 8, 10),
    (0, 2, 4, 7, 9),
    (0, 3, 5, 7, 10),
    (0, 1, 4, 5, 7, 8, 11),
    tuple(range(12)),
)


def draw_instrument(r: Random) -> Play:
    """Any instrument; instruments without an envelope get one."""
    kind = list(INSTRUMENTS)[r.choice(len(INSTRUMENTS), p=list(INSTRUMENTS.values()))]
    play = kind(r)
    envelope = None if kind in DECAYING and r.random() < 0.8 else draw_envelope(r)

    def enveloped(f: float, n: int) -> np.ndarray:
        sound = play(f, n)
        if envelope:
            return sound * envelope(n)
        return sound * np.minimum((n - np.arange(n)) / 160, 1)

    return enveloped


def draw_pitch(r: Random) -> float:
    """Hertz, uniform on the scale of pitch."""
    return LOWEST * 2 ** r.uniform(0, OCTAVES)


def add(clip: np.ndarray, play: Play, f: float, at: float, length: float, decibels: float) -> None:
    """Play a note into the clip: at and length in seconds, its peak that many decibels above 1."""
    begin = int(at * SAMPLE_RATE)
    n = min(max(400, int(length * SAMPLE_RATE)), len(clip) - begin)
    if n >= 400:
        sound = play(f, n)
        clip[begin : begin + n] += sound / (np.abs(sound).max() + 1e-9) * 10 ** (decibels / 20)


def scene(r: Random, clip: np.ndarray) -> None:
    """Events of one kind or of many, sparse or dense, over one another."""
    instruments = [draw_instrument(r) for _ in range(1 if r.random() < 0.4 else 6)]
    at = r.uniform(0, 0.5)
    density = log_uniform(r, 0.15, 1.5)
    while at < SECONDS - 0.1:
        play = instruments[r.integers(len(instruments))]
        add(clip, play, draw_pitch(r), at, log_uniform(r, 0.1, 4), r.uniform(-20, 0))
        at += density * r.gamma(2, 0.5)


def single_notes(r: Random, clip: np.ndarray) -> None:
    """Notes or strokes of one instrument, of one to four seconds each, one after another with quiet
    between them.
    """
    play = draw_instrument(r)
    at = r.uniform(0, 0.2)
    while at < SECONDS - 0.5:
        length = r.uniform(1, 4)
        add(clip, play, draw_pitch(r), at, length, r.uniform(-12, 0))
        at += length + r.uniform(0.1, 0.8)


def melody(r: Random, clip: np.ndarray) -> None:
    """One to three parts in a scale, walking by steps or leaping, in a rhythm that repeats."""
    beat = log_uniform(r, 0.12, 0.7)
    scale = SCALES[r.integers(len(SCALES))]
    tonic = draw_pitch(r)
    for _ in range(r.integers(1, 4)):
        play = draw_instrument(r)
        level = r.uniform(-12, 0)
        leap = r.uniform(0.5, 4)
        rhythm = r.choice([0.5, 1, 1, 1.5, 2], int(r.integers(2, 7)))
        step = int(r.integers(-7, 8))
        legato = r.uniform(0.5, 2)
        at, number = 0.0, 0
        while at < SECONDS - 0.1:
            octave, degree = divmod(step, len(scale))
            f = float(np.clip(tonic * 2 ** (octave + scale[degree] / 12), LOWEST, HIGHEST))
            seconds = beat * rhythm[number % len(rhythm)]
            if r.random() < 0.9:
                add(clip, play, f, at, seconds * legato, level)
            step = int(np.clip(step + np.round(r.normal(0, leap)), -14, 14))
            number += 1
            at += seconds


def rhythm(r: Random, clip: np.ndarray) -> None:
    """A pattern of strokes, over and over: hand drums and what else is struck, each at its own
    tuning.
    """
    beat = log_uniform(r, 0.08, 0.4)
    steps = int(r.integers(3, 17))
    others = (percussion.modal, percussion.gong, percussion.noise)
    for _ in range(r.integers(1, 4)):
        drum = percussion.hand_drum if r.random() < 0.7 else others[r.integers(3)]
        play = drum(r)
        struck = r.random(steps) < r.uniform(0.2, 0.8)
        struck[0] = True
        f = LOWEST * 2 ** r.uniform(0.5, 5)
        for number in range(int(SECONDS / beat)):
            if struck[number % steps]:
                at = number * beat + abs(r.normal(0, 0.003))
                add(clip, play, f, at, max(beat, 0.5), r.uniform(-10, 0))


def texture(r: Random, clip: np.ndarray) -> None:
    """A continuous sound (wind, water, a machine), with a few events over it."""
    sounds = (percussion.noise, percussion.pulses, percussion.noise, tones.chirps)
    for _ in range(r.integers(1, 3)):
        play = sounds[r.integers(4)](r)
        add(clip, play, draw_pitch(r), 0, SECONDS, r.uniform(-12, 0))
    for _ in range(r.integers(0, 5)):
        play = draw_instrument(r)
        f = draw_pitch(r)
        at = r.uniform(0, SECONDS - 0.5)
        add(clip, play, f, at, log_uniform(r, 0.1, 4), r.uniform(-15, 5))


FORMS = (scene, single_notes, melody, rhythm, texture)
FORM_SHARES = (0.32, 0.26, 0.17, 0.15, 0.1)


def render_clip(index: int) -> np.ndarray:
    """(160000,) float64 at 16 kHz, peak at most 0.9."""
    r = np.random.default_rng([0, index])
    clip = np.zeros(SECONDS * SAMPLE_RATE)
    FORMS[r.choice(len(FORMS), p=FORM_SHARES)](r, clip)
    if r.random() < 0.5:  # a room: exponentially decaying noise behind the direct sound
        t = np.arange(int(SAMPLE_RATE * log_uniform(r, 0.1, 1.5))) / SAMPLE_RATE
        response = r.normal(size=len(t)) * np.exp(-6.9 * t / t[-1])
        response[0] = r.uniform(2, 30)
        clip = fftconvolve(clip, response)[: len(clip)]
    clip /= np.abs(clip).max() + 1e-9
    clip += r.normal(size=len(clip)) * 10 ** (r.uniform(-90, -35) / 20)
    return clip * (0.9 * 10 ** (r.uniform(-20, 0) / 20) / np.abs(clip).max())


def render(index: int) -> Iterator[Sound]:
    """The clip of a number."""
    yield Sound(f"{index // 1000:03d}/{index:06d}", render_clip(index), SOURCE)


@click.command(cls=Command, help=__doc__)
@click.argument("dest", type=click.Path(path_type=Path, file_okay=False))
@click.option("--clips", default=9000, show_default=True)
@jobs_option()
def main(dest: Path, clips: int, jobs: int) -> None:
    write_corpus(dest, range(clips), render, jobs)


if __name__ == "__main__":
    main()
