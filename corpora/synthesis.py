"""Procedural instruments: drawn at random, then played at any pitch.

Each function draws an instrument with the generator ``r`` and returns ``play(f, n)``: ``n`` samples
(float64) at ``f`` hertz. The caller sets their level. The timbre is drawn once; the differences
between notes are drawn when a note is played.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.signal import fftconvolve, lfilter

from .signals import RATE, TOP, Random, bandpass, damped, draw_pitch_curve, log_uniform, partials, phases, seconds, sine

Play = Callable[[float, int], np.ndarray]


def harmonic(r: Random) -> Play:
    """Partials of a random spectrum: a tilt, fixed resonances, every one or the odd ones, stretched
    or not.
    """
    phase, tilt, fade = draw_pitch_curve(r), r.uniform(0.3, 2.5), r.uniform(0, 0.5)
    stretch = log_uniform(r, 1e-6, 1e-3) if r.random() < 0.4 else 0.0
    odd, breath = r.random() < 0.25, log_uniform(r, 1e-4, 0.1)
    ragged, numbers = r.normal(0, 0.7, 40), np.arange(1, 41)
    peaks, heights = np.exp(r.uniform(np.log(200), np.log(6000), 3)), r.uniform(0, 2.5, 3)
    detuned = r.uniform(0.001, 0.008) if r.random() < 0.25 else 0.0  # beside it, a second one: chorus

    def play(f: float, n: int) -> np.ndarray:
        frequencies = f * numbers * np.sqrt(1 + stretch * numbers**2)
        resonance = np.exp(-2 * np.log2(frequencies[:, None] / peaks) ** 2) @ heights
        amplitudes = np.exp(ragged + resonance) * numbers**-tilt * (numbers % 2 if odd else 1) * phases(r, 40)
        out = partials(phase(f, n), frequencies, fade, amplitudes, n)
        if detuned:
            out += partials(phase(f * (1 + detuned), n), frequencies * (1 + detuned), fade, amplitudes, n)
        return out + breath * np.abs(out).max() * bandpass(r.normal(size=n), 200, 6000)

    return play


def subtractive(r: Random) -> Play:
    """A saw, a square or a narrow pulse through a low-pass, as reeds, brass and synthesisers;
    bright at first, or later.
    """
    phase, width, power = draw_pitch_curve(r), r.choice([0.5, r.uniform(0.05, 0.5)]), log_uniform(r, 1, 20)
    saw, sweep, speed = r.random() < 0.5, r.uniform(-2, 2), log_uniform(r, 0.05, 1)

    def play(f: float, n: int) -> np.ndarray:
        k = np.arange(1, 41)
        spectrum = (1 / k if saw else np.sin(np.pi * k * width) / k) * -1j
        first, last = (spectrum / (1 + (k / (power * octaves)) ** 4) for octaves in (2**sweep, 1))
        cycles = phase(f, n)
        mix = np.exp(-seconds(n) / speed)
        return sum(share * partials(cycles, f * k, 0.0, part, n) for share, part in ((mix, first), (1 - mix, last)))

    return play


def fm(r: Random) -> Play:
    """Frequency modulation: one sine modulates the phase of another, less and less."""
    phase, ratio = draw_pitch_curve(r), r.choice([0.5, 1, 1, 2, 3, 1.41, r.uniform(0.3, 5)])
    index, decay = r.uniform(0.3, 6), r.uniform(0, 6)

    def play(f: float, n: int) -> np.ndarray:
        cycles = phase(f, n)
        cycles = f * seconds(n) if cycles is None else cycles
        most = max(0.0, (TOP / f - 1) / max(ratio, 0.5) - 1)  # Carson's rule: what goes beyond folds back
        return sine(cycles + min(index, most) / (2 * np.pi) * np.exp(-decay * seconds(n)) * sine(ratio * cycles))

    return play


def pluck(r: Random) -> Play:
    """Karplus and Strong's string, tuned exactly by an all-pass, plucked at some place."""
    decay, damping, place = log_uniform(r, 0.15, 6), r.uniform(0.05, 0.5), r.uniform(0.05, 0.5)

    def play(f: float, n: int) -> np.ndarray:
        period = RATE / f - damping  # the averaging delays by `damping` samples
        whole = max(1, int(period - 0.3))
        rest = period - whole
        c = (1 - rest) / (1 + rest)
        excitation = np.zeros(n)
        burst = r.uniform(-1, 1, whole + 1)
        excitation[: len(burst)] = (burst - np.roll(burst, max(1, int(place * whole))))[:n]
        gain = 10 ** (-3 / (f * decay))
        loop = gain * np.convolve([1 - damping, damping], [c, 1])
        a = np.zeros(whole + 3)
        a[:2] = [1, c]
        a[whole : whole + 3] -= loop
        return lfilter([1, c], a, excitation)

    return play


#: Ratios of modes: a free bar, a clamped bar, a membrane, a tuned hand drum, a bell, a tuned
#: (marimba) bar, a wine glass.
MODES = (
    (1, 2.76, 5.4, 8.93, 13.34, 18.6),
    (1, 6.27, 17.55, 34.39),
    (1, 1.59, 2.14, 2.3, 2.65, 2.92, 3.16, 3.5, 3.6, 4.06),
    (1, 2, 3, 4, 5),
    (0.5, 1, 1.2, 1.5, 2, 2.5, 2.67, 3, 4, 5.33),
    (1, 4, 9.2, 16.2),
    (1, 2.32, 4.25, 6.63, 9.38),
)


def modal(r: Random) -> Play:
    """Something struck: exponentially decaying modes of a known body or of a random one, begun by a
    click of noise.
    """
    known = np.array(MODES[r.integers(len(MODES))], float)
    ratios = (
        known * np.exp(r.normal(0, 0.01, len(known)))
        if r.random() < 0.7
        else np.r_[1, np.sort(r.uniform(1, 12, r.integers(3, 16)))]
    )
    levels, slope, decay = r.uniform(0.1, 1, len(ratios)), r.uniform(0, 1), log_uniform(r, 0.06, 4)
    click, hardness = r.uniform(0, 1) ** 3, log_uniform(r, 500, 6000)

    def play(f: float, n: int) -> np.ndarray:
        place = r.uniform(0.4, 1, len(ratios))
        out = damped(f * ratios, decay / ratios**slope, levels * place * phases(r, len(ratios)), n)
        m = min(n, 400)
        out[:m] += click * bandpass(r.normal(size=m) * np.exp(-seconds(m) / 0.004), hardness / 4, hardness)
        return out

    return play


def gong(r: Random) -> Play:
    """A plate: dozens of modes, the high ones rising late in a gong and fading first in a
    cymbal.
    """
    count, decay, late = r.integers(25, 70), log_uniform(r, 0.2, 5), r.uniform(0, 0.4) * (r.random() < 0.5)
    ratios = np.r_[1, np.sort(np.exp(r.uniform(0, np.log(40), count)))]
    levels, shimmer = r.uniform(0.1, 1, len(ratios)) * ratios ** -r.uniform(-0.3, 1), r.uniform(0, 1) ** 2

    def play(f: float, n: int) -> np.ndarray:
        amplitudes, decays = levels * phases(r, len(ratios)), decay / ratios**0.3
        out = damped(f * ratios, decays, amplitudes, n)
        if late:  # less the same with a quicker decay: it begins at nothing
            out -= damped(f * ratios, 1 / (1 / decays + 4 / (late * np.log2(ratios + 1))), amplitudes, n)
        t = seconds(n)
        hiss = bandpass(r.normal(size=n) * np.exp(-t * 3 / decay), 2000, 7800)
        return out / (np.abs(out).max() + 1e-9) + shimmer * hiss / (np.abs(hiss).max() + 1e-9)

    return play


def hand_drum(r: Random) -> Play:
    """A drum with one tuning and several strokes: open, damped, on the rim, slapped, glided;
    harmonic or a bare membrane.
    """
    modes = np.array(MODES[3] if r.random() < 0.6 else MODES[2], float) * (1 + r.normal(0, 0.004))
    strokes = [
        {
            "levels": r.uniform(0, 1, len(modes)) ** 2,
            "decay": log_uniform(r, 0.02, 1.2),
            "noise": r.uniform(0, 1) ** 2,
            "noise_decay": log_uniform(r, 0.003, 0.08),
            "band": log_uniform(r, 150, 3000),
            "glide": r.uniform(-4, 6) * (r.random() < 0.3),
        }
        for _ in range(r.integers(2, 7))
    ]

    def play(f: float, n: int) -> np.ndarray:
        stroke, t = strokes[r.integers(len(strokes))], seconds(n)
        amplitudes = stroke["levels"] * r.uniform(0.7, 1, len(modes)) * phases(r, len(modes))
        out = damped(f * modes, stroke["decay"] / modes**0.5, amplitudes, n)
        if stroke["glide"]:  # of the whole, by reading it faster or slower at first
            out = np.interp(np.cumsum(2 ** (stroke["glide"] / 12 * np.exp(-t / 0.05))), np.arange(n), out)
        hit = bandpass(r.normal(size=n) * np.exp(-t / stroke["noise_decay"]), stroke["band"], stroke["band"] * 4)
        return out + stroke["noise"] * 2 * hit / (np.abs(hit).max() + 1e-9)

    return play


def noise(r: Random) -> Play:
    """White or red noise through a band that follows the pitch or not, steady, gusty or sparse
    (drops, crackles).
    """
    red, width, follows, band = r.random() < 0.2, r.uniform(0.2, 5), r.random() < 0.5, log_uniform(r, 60, 4000)
    gusts, sparse = r.uniform(0, 1) * (r.random() < 0.5), log_uniform(r, 1e-3, 0.05) if r.random() < 0.25 else 0.0

    def play(f: float, n: int) -> np.ndarray:
        x = np.cumsum(r.normal(size=n)) * 0.02 if red else r.normal(size=n)
        if sparse:
            x = x * (r.random(n) < sparse)
        low = min(f if follows else band, 6000)
        x = bandpass(x - x.mean(), low, low * 2**width)
        if gusts:
            steps = np.interp(
                seconds(n), np.arange(0, n / RATE + 0.3, 0.2), r.normal(size=len(np.arange(0, n / RATE + 0.3, 0.2)))
            )
            x = x * np.exp(1.5 * gusts * steps)
        return x

    return play


def pulses(r: Random) -> Play:
    """Engines, rattles, ticks: a short sound over and over, evenly or at random, ever faster or
    slower.
    """
    rate, even, drift = log_uniform(r, 3, 90), log_uniform(r, 1, 3000), r.uniform(-1.5, 1.5) * (r.random() < 0.4)
    inner = (modal if r.random() < 0.6 else noise)(r)
    length = int(RATE * log_uniform(r, 0.01, 0.12))

    def play(f: float, n: int) -> np.ndarray:
        now, end, x = 0.0, n / RATE, np.zeros(n)
        while now < end:
            x[int(now * RATE)] = r.uniform(0.7, 1)
            now += max(0.002, r.gamma(even, 1 / even) / (rate * 2 ** (drift * now / end)))
        kernel = inner(max(f, 100), length)
        return fftconvolve(x, kernel * np.linspace(1, 0, length))[:n]

    return play


#: First three formants of vowels, in hertz: a, e, i, o, u, ə, æ, y.
VOWELS = np.array(
    [
        (750, 1250, 2600),
        (530, 1850, 2500),
        (290, 2250, 3000),
        (500, 900, 2500),
        (320, 800, 2300),
        (500, 1500, 2500),
        (680, 1700, 2450),
        (280, 1900, 2300),
    ]
)


def voice(r: Random) -> Play:
    """Syllables, spoken or sung: a glottal pulse or a whisper through moving formants, with
    consonants of noise.
    """
    size, tract = r.uniform(0.8, 1.3), VOWELS * np.exp(r.normal(0, 0.06, VOWELS.shape))
    tilt, whisper, sung, syllable = r.uniform(0.7, 0.97), r.random() < 0.08, r.random() < 0.4, log_uniform(r, 0.1, 0.5)
    phase, breath, base = draw_pitch_curve(r), r.uniform(0, 0.15), log_uniform(r, 75, 400)

    def play(f: float, n: int) -> np.ndarray:
        octave = np.log2(f / 27.5) % 1
        f = np.clip(f, 75, 900) if sung else base * 2 ** (octave / 2 - 0.25)
        cycles = phase(f, n)
        cycles = f * seconds(n) if cycles is None else cycles
        if not sung:
            cycles = np.cumsum(
                np.gradient(cycles) * 2 ** (np.interp(seconds(n), np.linspace(0, n / RATE, 6), r.normal(0, 2.5, 6)) / 12)
            )
        source = np.diff(np.floor(cycles), prepend=0) + breath * r.normal(size=n) if not whisper else r.normal(size=n)
        source = lfilter([1], [1, -tilt], source)
        out, edge, vowel = np.zeros(n), 0, tract[r.integers(len(tract))]
        while edge < n:
            end = min(n, edge + int(RATE * syllable * r.uniform(0.5, 1.5)) + 1)
            before, vowel = vowel, tract[r.integers(len(tract))]
            out[edge:end] = _syllable(r, source[edge:end], before * size, vowel * size)
            edge = end
        return out

    return play


def _syllable(r: Random, source: np.ndarray, before: np.ndarray, vowel: np.ndarray) -> np.ndarray:
    """A glide of some 60 ms from one vowel into another, below an arch; some begin with a
    consonant.
    """
    n, glide = len(source), min(len(source), 960)
    y = np.empty(n)
    for start, formants in ((0, (before + vowel) / 2), (glide, vowel)):
        part = source[start : glide if start == 0 else n]
        for centre, width in zip(formants, (70, 100, 150), strict=True):
            radius, angle = np.exp(-np.pi * width / RATE), 2 * np.pi * min(centre, 7000) / RATE
            part = lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], part)
        y[start : start + len(part)] = part / (np.abs(part).max(initial=0) + 1e-9)
    y *= np.sin(np.pi * (np.arange(n) + 0.5) / n) ** r.uniform(0.2, 1)
    if n > 800 and r.random() < 0.6:  # s, f, sh, t, k
        m = min(n, int(RATE * log_uniform(r, 0.01, 0.12)))
        hiss = bandpass(r.normal(size=m), low := log_uniform(r, 800, 5000), low * 2.5) * np.hanning(m)
        y[:m] = y[:m] * np.linspace(0, 1, m) + r.uniform(0.1, 0.7) * hiss / (np.abs(hiss).max() + 1e-9)
    return y


def chirps(r: Random) -> Play:
    """Birds, crickets, sirens, alarms: a figure of quick glides, repeated."""
    figure = [
        (r.uniform(-8, 8), r.uniform(-8, 8), r.uniform(0.2, 1), i == 0 or r.random() < 0.8) for i in range(r.integers(1, 6))
    ]
    unit, overtone, trill = log_uniform(r, 0.02, 0.4), r.uniform(0, 0.5), r.uniform(10, 60) * (r.random() < 0.3)

    def play(f: float, n: int) -> np.ndarray:
        semitones, level = [], []
        while sum(map(len, level)) < n:
            for begin, end, share, sounds in figure:
                m = max(16, int(RATE * unit * share))
                semitones.append(np.linspace(begin, end, m))
                level.append(np.hanning(m) ** 0.5 * sounds)
        cycles = np.cumsum(np.minimum(f * 2 ** (np.concatenate(semitones)[:n] / 12), TOP)) / RATE
        tremble = 1 - 0.5 * (1 + sine(trill * seconds(n))) if trill else 1
        return np.concatenate(level)[:n] * tremble * (sine(cycles) + overtone * sine(2 * cycles) * (2 * f < TOP))

    return play
