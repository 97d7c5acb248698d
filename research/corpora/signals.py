"""The signals and random curves that the instruments of `tones` and `percussion` are made of."""

from collections.abc import Callable

import numpy as np
from scipy.signal import butter, sosfilt

from .manifest import SAMPLE_RATE

#: Of a partial, the highest frequency: near the Nyquist frequency nothing is left of a real
#: recording.
TOP = 7600.0
Random = np.random.Generator


def log_uniform(r: Random, low: float, high: float) -> float:
    """A random number, uniform on a logarithmic scale."""
    return float(np.exp(r.uniform(np.log(low), np.log(high))))


def seconds(n: int) -> np.ndarray:
    """The times of ``n`` samples, (n,) float64."""
    return np.arange(n) / SAMPLE_RATE


def sine(cycles: np.ndarray) -> np.ndarray:
    """Sine of a phase in cycles.

    Single precision is exact enough (-120 dB) once whole cycles are taken off, and much faster.
    """
    return np.sin(((cycles - np.floor(cycles)) * (2 * np.pi)).astype(np.float32))


def damped(
    frequencies: np.ndarray, decays: np.ndarray, amplitudes: np.ndarray, n: int
) -> np.ndarray:
    """Sum of decaying sines: hertz, seconds to 1/e (or infinity) and complex amplitudes, (modes,)
    each -> (n,) samples.

    A mode is a power series z^0, z^1, ..., and z^(64 p + q) = (z^64)^p z^q, so that all modes are
    one product of matrices.
    """
    kept = frequencies < TOP
    step = (2j * np.pi * frequencies[kept] - 1 / decays[kept]) / SAMPLE_RATE
    coarse = np.exp(np.outer(np.arange(0, n, 64), step)) * amplitudes[kept]
    fine = np.exp(np.outer(step, np.arange(64)))
    return (coarse.real @ fine.real - coarse.imag @ fine.imag).ravel()[:n]


def phases(r: Random, count: int) -> np.ndarray:
    """(count,) complex numbers of modulus 1."""
    return np.exp(2j * np.pi * r.random(count))


def bandpass(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """``x`` between two frequencies in hertz, by a Butterworth filter of second order."""
    return sosfilt(butter(2, [low, min(high, 7900)], "band", fs=SAMPLE_RATE, output="sos"), x)


def draw_envelope(r: Random) -> Callable[[int], np.ndarray]:
    """Struck (an attack, then a decay) or held (swells, tremolo, a release)."""
    attack = log_uniform(r, 1e-3, 0.2)
    struck = r.random() < 0.5
    decay = log_uniform(r, 0.1, 5)
    release = r.uniform(0.02, 0.3)
    tremolo = r.uniform(0, 0.6) * (r.random() < 0.4)
    rate = r.uniform(2, 9)
    slope = r.uniform(-1.5, 1.5)

    def envelope(n: int) -> np.ndarray:
        t = seconds(n)
        rise = np.minimum(t / attack, 1)
        if struck:
            fall = np.exp(-np.maximum(t - attack, 0) / decay)
            return rise * fall * np.minimum((t[-1] - t) / 0.01, 1)
        end = np.minimum((t[-1] - t) / release, 1)
        swell = 1 + tremolo * np.sin(2 * np.pi * rate * t)
        return rise * end * swell * np.exp(slope * t / t[-1])

    return envelope


def draw_pitch_curve(r: Random) -> Callable[[float, int], np.ndarray | None]:
    """Phase in cycles of a note with vibrato, or with a glide into it; None of one that is
    steady.
    """
    depth = r.uniform(0.1, 1.0) * (r.random() < 0.3)
    rate = r.uniform(3, 8)
    glide = r.uniform(-7, 7) * (r.random() < 0.15)
    power = r.uniform(0.2, 2)

    def phase(f: float, n: int) -> np.ndarray | None:
        if not depth and not glide:
            return None
        t = seconds(n)
        vibrato = depth * np.sin(2 * np.pi * rate * t) * np.minimum(t / 0.3, 1)
        semitones = vibrato + glide * (1 - t / t[-1]) ** power
        return np.cumsum(f * 2 ** (semitones / 12)) / SAMPLE_RATE

    return phase


def partials(
    cycles: np.ndarray | None,
    frequencies: np.ndarray,
    fade: float,
    amplitudes: np.ndarray,
    n: int,
) -> np.ndarray:
    """Partials of a steady note, or of one whose phase is given (and which is not stretched);
    higher ones fade faster.
    """
    rates = fade * np.arange(len(frequencies))
    if cycles is None:
        return damped(frequencies, 1 / (rates + 1e-9), amplitudes, n)
    fundamental = np.exp(2j * np.pi * (cycles - np.floor(cycles))).astype(np.complex64)
    faded = fundamental * np.exp(-fade * seconds(n)).astype(np.float32)
    out = np.zeros(n)
    for amplitude in amplitudes[frequencies < TOP]:
        out += fundamental.real * amplitude.real - fundamental.imag * amplitude.imag
        fundamental = fundamental * faded
    return out
