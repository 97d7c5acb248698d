"""Procedural instruments that are struck, and noises: as in `tones`."""

import numpy as np
from scipy.signal import fftconvolve

from .manifest import SAMPLE_RATE
from .signals import Random, bandpass, damped, log_uniform, phases, seconds
from .tones import Play

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
    if r.random() < 0.7:
        ratios = known * np.exp(r.normal(0, 0.01, len(known)))
    else:
        ratios = np.r_[1, np.sort(r.uniform(1, 12, r.integers(3, 16)))]
    levels = r.uniform(0.1, 1, len(ratios))
    slope = r.uniform(0, 1)
    decay = log_uniform(r, 0.06, 4)
    click = r.uniform(0, 1) ** 3
    hardness = log_uniform(r, 500, 6000)

    def play(f: float, n: int) -> np.ndarray:
        place = r.uniform(0.4, 1, len(ratios))
        amplitudes = levels * place * phases(r, len(ratios))
        out = damped(f * ratios, decay / ratios**slope, amplitudes, n)
        m = min(n, 400)
        noise = r.normal(size=m) * np.exp(-seconds(m) / 0.004)
        out[:m] += click * bandpass(noise, hardness / 4, hardness)
        return out

    return play


def gong(r: Random) -> Play:
    """A plate: dozens of modes, the high ones rising late in a gong and fading first in a
    cymbal.
    """
    count = r.integers(25, 70)
    decay = log_uniform(r, 0.2, 5)
    late = r.uniform(0, 0.4) * (r.random() < 0.5)
    ratios = np.r_[1, np.sort(np.exp(r.uniform(0, np.log(40), count)))]
    levels = r.uniform(0.1, 1, len(ratios)) * ratios ** -r.uniform(-0.3, 1)
    shimmer = r.uniform(0, 1) ** 2

    def play(f: float, n: int) -> np.ndarray:
        amplitudes = levels * phases(r, len(ratios))
        decays = decay / ratios**0.3
        out = damped(f * ratios, decays, amplitudes, n)
        if late:  # less the same with a quicker decay: it begins at nothing
            quicker = 1 / (1 / decays + 4 / (late * np.log2(ratios + 1)))
            out -= damped(f * ratios, quicker, amplitudes, n)
        t = seconds(n)
        hiss = bandpass(r.normal(size=n) * np.exp(-t * 3 / decay), 2000, 7800)
        loud = shimmer * hiss / (np.abs(hiss).max() + 1e-9)
        return out / (np.abs(out).max() + 1e-9) + loud

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
        stroke = strokes[r.integers(len(strokes))]
        t = seconds(n)
        amplitudes = stroke["levels"] * r.uniform(0.7, 1, len(modes)) * phases(r, len(modes))
        out = damped(f * modes, stroke["decay"] / modes**0.5, amplitudes, n)
        if stroke["glide"]:  # of the whole, by reading it faster or slower at first
            speed = 2 ** (stroke["glide"] / 12 * np.exp(-t / 0.05))
            out = np.interp(np.cumsum(speed), np.arange(n), out)
        noise = r.normal(size=n) * np.exp(-t / stroke["noise_decay"])
        hit = bandpass(noise, stroke["band"], stroke["band"] * 4)
        return out + stroke["noise"] * 2 * hit / (np.abs(hit).max() + 1e-9)

    return play


def noise(r: Random) -> Play:
    """White or red noise through a band that follows the pitch or not, steady, gusty or sparse
    (drops, crackles).
    """
    red = r.random() < 0.2
    width = r.uniform(0.2, 5)
    follows = r.random() < 0.5
    band = log_uniform(r, 60, 4000)
    gusts = r.uniform(0, 1) * (r.random() < 0.5)
    sparse = log_uniform(r, 1e-3, 0.05) if r.random() < 0.25 else 0.0

    def play(f: float, n: int) -> np.ndarray:
        x = np.cumsum(r.normal(size=n)) * 0.02 if red else r.normal(size=n)
        if sparse:
            x = x * (r.random(n) < sparse)
        low = min(f if follows else band, 6000)
        x = bandpass(x - x.mean(), low, low * 2**width)
        if gusts:
            times = np.arange(0, n / SAMPLE_RATE + 0.3, 0.2)
            steps = np.interp(seconds(n), times, r.normal(size=len(times)))
            x = x * np.exp(1.5 * gusts * steps)
        return x

    return play


def pulses(r: Random) -> Play:
    """Engines, rattles, ticks: a short sound over and over, evenly or at random, ever faster or
    slower.
    """
    rate = log_uniform(r, 3, 90)
    even = log_uniform(r, 1, 3000)
    drift = r.uniform(-1.5, 1.5) * (r.random() < 0.4)
    inner = (modal if r.random() < 0.6 else noise)(r)
    length = int(SAMPLE_RATE * log_uniform(r, 0.01, 0.12))

    def play(f: float, n: int) -> np.ndarray:
        x = np.zeros(n)
        now, end = 0.0, n / SAMPLE_RATE
        while now < end:
            x[int(now * SAMPLE_RATE)] = r.uniform(0.7, 1)
            now += max(0.002, r.gamma(even, 1 / even) / (rate * 2 ** (drift * now / end)))
        kernel = inner(max(f, 100), length)
        return fftconvolve(x, kernel * np.linspace(1, 0, length))[:n]

    return play
