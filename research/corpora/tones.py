"""Procedural instruments with a pitch, and voices: drawn at random, then played at any pitch.

Each function draws an instrument with the generator ``r`` and returns ``play(f, n)``: ``n`` samples
(float64) at ``f`` hertz. The caller sets their level. The timbre is drawn once; the differences
between notes are drawn when a note is played.
"""

from collections.abc import Callable

import numpy as np
from scipy.signal import lfilter

from .manifest import SAMPLE_RATE
from .signals import (
    TOP,
    Random,
    bandpass,
    draw_pitch_curve,
    log_uniform,
    partials,
    phases,
    seconds,
    sine,
)

Play = Callable[[float, int], np.ndarray]


def harmonic(r: Random) -> Play:
    """Partials of a random spectrum: a tilt, fixed resonances, every one or the odd ones, stretched
    or not.
    """
    phase = draw_pitch_curve(r)
    tilt = r.uniform(0.3, 2.5)
    fade = r.uniform(0, 0.5)
    stretch = log_uniform(r, 1e-6, 1e-3) if r.random() < 0.4 else 0.0
    odd = r.random() < 0.25
    breath = log_uniform(r, 1e-4, 0.1)
    ragged = r.normal(0, 0.7, 40)
    numbers = np.arange(1, 41)
    peaks = np.exp(r.uniform(np.log(200), np.log(6000), 3))
    heights = r.uniform(0, 2.5, 3)
    # A second one beside it: chorus.
    detuned = r.uniform(0.001, 0.008) if r.random() < 0.25 else 0.0

    def play(f: float, n: int) -> np.ndarray:
        frequencies = f * numbers * np.sqrt(1 + stretch * numbers**2)
        resonance = np.exp(-2 * np.log2(frequencies[:, None] / peaks) ** 2) @ heights
        heard = numbers % 2 if odd else 1
        levels = np.exp(ragged + resonance) * numbers**-tilt * heard
        amplitudes = levels * phases(r, 40)
        out = partials(phase(f, n), frequencies, fade, amplitudes, n)
        if detuned:
            up = 1 + detuned
            out += partials(phase(f * up, n), frequencies * up, fade, amplitudes, n)
        return out + breath * np.abs(out).max() * bandpass(r.normal(size=n), 200, 6000)

    return play


def subtractive(r: Random) -> Play:
    """A saw, a square or a narrow pulse through a low-pass, as reeds, brass and synthesisers;
    bright at first, or later.
    """
    phase = draw_pitch_curve(r)
    width = r.choice([0.5, r.uniform(0.05, 0.5)])
    power = log_uniform(r, 1, 20)
    saw = r.random() < 0.5
    sweep = r.uniform(-2, 2)
    speed = log_uniform(r, 0.05, 1)

    def play(f: float, n: int) -> np.ndarray:
        k = np.arange(1, 41)
        spectrum = (1 / k if saw else np.sin(np.pi * k * width) / k) * -1j
        first, last = (spectrum / (1 + (k / (power * by)) ** 4) for by in (2**sweep, 1))
        cycles = phase(f, n)
        mix = np.exp(-seconds(n) / speed)
        early = mix * partials(cycles, f * k, 0.0, first, n)
        return early + (1 - mix) * partials(cycles, f * k, 0.0, last, n)

    return play


def fm(r: Random) -> Play:
    """Frequency modulation: one sine modulates the phase of another, less and less."""
    phase = draw_pitch_curve(r)
    ratio = r.choice([0.5, 1, 1, 2, 3, 1.41, r.uniform(0.3, 5)])
    index = r.uniform(0.3, 6)
    decay = r.uniform(0, 6)

    def play(f: float, n: int) -> np.ndarray:
        cycles = phase(f, n)
        cycles = f * seconds(n) if cycles is None else cycles
        # Carson's rule: what goes beyond folds back.
        most = max(0.0, (TOP / f - 1) / max(ratio, 0.5) - 1)
        depth = min(index, most) / (2 * np.pi) * np.exp(-decay * seconds(n))
        return sine(cycles + depth * sine(ratio * cycles))

    return play


def pluck(r: Random) -> Play:
    """Karplus and Strong's string, tuned exactly by an all-pass, plucked at some place."""
    decay = log_uniform(r, 0.15, 6)
    damping = r.uniform(0.05, 0.5)
    place = r.uniform(0.05, 0.5)

    def play(f: float, n: int) -> np.ndarray:
        period = SAMPLE_RATE / f - damping  # the averaging delays by `damping` samples
        whole = max(1, int(period - 0.3))
        rest = period - whole
        c = (1 - rest) / (1 + rest)
        excitation = np.zeros(n)
        burst = r.uniform(-1, 1, whole + 1)
        burst -= np.roll(burst, max(1, int(place * whole)))
        excitation[: len(burst)] = burst[:n]
        gain = 10 ** (-3 / (f * decay))
        loop = gain * np.convolve([1 - damping, damping], [c, 1])
        a = np.zeros(whole + 3)
        a[:2] = [1, c]
        a[whole : whole + 3] -= loop
        return lfilter([1, c], a, excitation)

    return play


#: First three formants of vowels, in hertz: a, e, i, o, u, ə, æ, y.
VOWELS = np.array(
    [
        *((750, 1250, 2600), (530, 1850, 2500), (290, 2250, 3000), (500, 900, 2500)),
        *((320, 800, 2300), (500, 1500, 2500), (680, 1700, 2450), (280, 1900, 2300)),
    ]
)


def voice(r: Random) -> Play:
    """Syllables, spoken or sung: a glottal pulse or a whisper through moving formants, with
    consonants of noise.
    """
    size = r.uniform(0.8, 1.3)
    tract = VOWELS * np.exp(r.normal(0, 0.06, VOWELS.shape))
    tilt = r.uniform(0.7, 0.97)
    whisper = r.random() < 0.08
    sung = r.random() < 0.4
    syllable = log_uniform(r, 0.1, 0.5)
    phase = draw_pitch_curve(r)
    breath = r.uniform(0, 0.15)
    base = log_uniform(r, 75, 400)

    def glottis(f: float, n: int) -> np.ndarray:
        octave = np.log2(f / 27.5) % 1
        f = np.clip(f, 75, 900) if sung else base * 2 ** (octave / 2 - 0.25)
        cycles = phase(f, n)
        cycles = f * seconds(n) if cycles is None else cycles
        if not sung:
            melody = np.interp(seconds(n), np.linspace(0, n / SAMPLE_RATE, 6), r.normal(0, 2.5, 6))
            cycles = np.cumsum(np.gradient(cycles) * 2 ** (melody / 12))
        if whisper:
            return r.normal(size=n)
        return np.diff(np.floor(cycles), prepend=0) + breath * r.normal(size=n)

    def play(f: float, n: int) -> np.ndarray:
        source = lfilter([1], [1, -tilt], glottis(f, n))
        out, edge, vowel = np.zeros(n), 0, tract[r.integers(len(tract))]
        while edge < n:
            end = min(n, edge + int(SAMPLE_RATE * syllable * r.uniform(0.5, 1.5)) + 1)
            before, vowel = vowel, tract[r.integers(len(tract))]
            out[edge:end] = _syllable(r, source[edge:end], before * size, vowel * size)
            edge = end
        return out

    return play


def _syllable(r: Random, source: np.ndarray, before: np.ndarray, vowel: np.ndarray) -> np.ndarray:
    """A glide of some 60 ms from one vowel into another, below an arch; some begin with a
    consonant.
    """
    n = len(source)
    glide = min(n, 960)
    y = np.concatenate(
        [_formants(source[:glide], (before + vowel) / 2), _formants(source[glide:], vowel)]
    )
    y *= np.sin(np.pi * (np.arange(n) + 0.5) / n) ** r.uniform(0.2, 1)
    if n > 800 and r.random() < 0.6:  # s, f, sh, t, k
        m = min(n, int(SAMPLE_RATE * log_uniform(r, 0.01, 0.12)))
        hiss = r.normal(size=m)
        low = log_uniform(r, 800, 5000)
        hiss = bandpass(hiss, low, low * 2.5) * np.hanning(m)
        loud = r.uniform(0.1, 0.7) * hiss / (np.abs(hiss).max() + 1e-9)
        y[:m] = y[:m] * np.linspace(0, 1, m) + loud
    return y


def _formants(part: np.ndarray, formants: np.ndarray) -> np.ndarray:
    for centre, width in zip(formants, (70, 100, 150), strict=True):
        radius = np.exp(-np.pi * width / SAMPLE_RATE)
        angle = 2 * np.pi * min(centre, 7000) / SAMPLE_RATE
        part = lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], part)
    return part / (np.abs(part).max(initial=0) + 1e-9)


def chirps(r: Random) -> Play:
    """Birds, crickets, sirens, alarms: a figure of quick glides, repeated."""
    figure = [
        (r.uniform(-8, 8), r.uniform(-8, 8), r.uniform(0.2, 1), i == 0 or r.random() < 0.8)
        for i in range(r.integers(1, 6))
    ]
    unit = log_uniform(r, 0.02, 0.4)
    overtone = r.uniform(0, 0.5)
    trill = r.uniform(10, 60) * (r.random() < 0.3)

    def play(f: float, n: int) -> np.ndarray:
        semitones: list[np.ndarray] = []
        level: list[np.ndarray] = []
        while sum(map(len, level)) < n:
            for begin, end, share, sounds in figure:
                m = max(16, int(SAMPLE_RATE * unit * share))
                semitones.append(np.linspace(begin, end, m))
                level.append(np.hanning(m) ** 0.5 * sounds)
        glides = f * 2 ** (np.concatenate(semitones)[:n] / 12)
        cycles = np.cumsum(np.minimum(glides, TOP)) / SAMPLE_RATE
        tremble = 1 - 0.5 * (1 + sine(trill * seconds(n))) if trill else 1
        tone = sine(cycles) + overtone * sine(2 * cycles) * (2 * f < TOP)
        return np.concatenate(level)[:n] * tremble * tone

    return play
