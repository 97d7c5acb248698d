"""Audio files for tests, written through FFmpeg."""

from pathlib import Path

import numpy as np
import pytest


def tone(rate: int, seconds: float, frequency: float = 440.0) -> np.ndarray:
    """(samples,) float64, a sine of half the full scale."""
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)


def encode(
    path: Path,
    audio: np.ndarray,
    rate: int,
    codec: str,
    container: str | None = None,
    **options: str,
) -> Path:
    """Write (samples,) through FFmpeg; ``options`` are those of its muxer, and ``quality`` is the
    codec's.
    """
    import av

    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV does not encode {codec}")
    quality = options.pop("quality", None)
    with av.open(str(path), "w", format=container, options=options) as file:
        coded = {"global_quality": quality, "flags": "+qscale"} if quality else {}
        stream = file.add_stream(codec, rate=rate, layout="mono", options=coded)
        if not quality:
            stream.bit_rate = 64000
        whole = av.AudioFrame.from_ndarray(audio[None].astype("f4"), format="fltp", layout="mono")
        whole.sample_rate, whole.pts = rate, 0
        fit = av.AudioResampler(
            format=stream.format, layout="mono", rate=rate, frame_size=stream.frame_size or 0
        )
        for frame in (*fit.resample(whole), *fit.resample(None), None):
            file.mux(stream.encode(frame))
    return path
