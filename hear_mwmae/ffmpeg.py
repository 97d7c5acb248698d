"""Audio that libsndfile does not read, through FFmpeg (PyAV): m4a, aac, webm, wma, the sound of
videos.
"""

from __future__ import annotations

import errno
import importlib.util
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from .errors import HearMwmaeError
from .extras import needs

if TYPE_CHECKING:
    import av

#: FFmpeg's names of containers, and the endings of their files. libsndfile reads ogg and caf, but
#: not all of their codings. No other container is opened: some formats of FFmpeg, such as
#: playlists, open further files and addresses.
FORMATS = {
    "mov,mp4,m4a,3gp,3g2,mj2": (".m4a", ".m4b", ".m4v", ".mp4", ".mov", ".3gp", ".3g2"),
    "matroska,webm": (".webm", ".weba", ".mka", ".mkv"),
    "aac": (".aac",),
    "asf": (".wma", ".wmv", ".asf"),
    "ac3": (".ac3",),
    "eac3": (".eac3",),
    "amr": (".amr",),
    "ape": (".ape",),
    "tta": (".tta",),
    "wv": (".wv",),
    "avi": (".avi",),
    "flv": (".flv",),
    "mpeg": (".mpg", ".mpeg"),
    "mpegts": (".mts", ".m2ts"),  # .ts is also TypeScript
    "ogg": (".ogv", ".spx"),
    "caf": (),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
#: Seconds that may be missing at the end: containers count packets, with or without the encoder's
#: delay.
TOLERANCE = 0.1


def is_installed() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def read(file: BinaryIO | FileIO, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """(sample rate, (samples,) float32) of every packet of the first or default stream of audio in
    a file, channels averaged.

    Raises HearMwmaeError, possibly at the end, for a file that has no audio, is damaged, or is
    shorter than its container says. The container of a live recording announces no length.
    """
    try:
        import av
    except ImportError as error:
        raise needs(f"{name}: reading {Path(name).suffix or 'it'}", "PyAV", "av") from error
    seconds = 0.0
    to_planar_float = av.AudioResampler(format="fltp")
    try:
        with _open(file) as container:
            stream = _audio_stream(container, name)
            announced = _seconds(container, stream)
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise HearMwmaeError(f"{name}: damaged or truncated after {seconds:.2f} s")
                for frame in (part for whole in packet.decode() for part in to_planar_float.resample(whole)):
                    seconds += frame.samples / frame.sample_rate
                    yield frame.sample_rate, frame.to_ndarray().mean(axis=0)
    except HearMwmaeError:
        raise
    except (av.FFmpegError, ValueError, EOFError, OSError) as error:
        # ValueError: the rate or the channels change within the file. EINVAL: an empty file, not an
        # error of the disk.
        if isinstance(error, OSError) and not isinstance(error, av.FFmpegError) and error.errno != errno.EINVAL:
            raise
        reason = "not an audio file that libsndfile or FFmpeg reads, or damaged" if not seconds else "damaged or truncated"
        raise HearMwmaeError(f"{name}: {reason} ({getattr(error, 'strerror', None) or error})") from error
    if announced is not None and seconds < announced - TOLERANCE:
        raise HearMwmaeError(f"{name}: truncated, only {seconds:.2f} of {announced:.2f} s could be read")


def audio_seconds(path: Path) -> float | None:
    """Length that the container announces; None without a length or a readable container."""
    if not is_installed():
        return None
    import av

    try:
        with open(path, "rb") as file, _open(file) as container:
            return _seconds(container, _audio_stream(container, str(path)))
    except (av.FFmpegError, ValueError, OSError):
        return None


def _open(file: BinaryIO | FileIO) -> av.container.InputContainer:
    import av

    # As a file object: a name may not be UTF-8, or look like a protocol of FFmpeg.
    return av.open(file, "r", options={"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"})


def _audio_stream(container: av.container.InputContainer, name: str) -> av.AudioStream:
    import av

    stream = container.streams.best("audio")
    if not isinstance(stream, av.AudioStream):
        raise HearMwmaeError(f"{name}: holds no audio")
    return stream


def _seconds(container: av.container.InputContainer, stream: av.AudioStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    # The container's length is the length of its longest stream, which may be the video.
    return container.duration / 1e6 if len(container.streams) == 1 and container.duration else None
