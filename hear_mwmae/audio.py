"""Audio files: found in folders, decoded as a stream, mixed down and resampled."""

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soxr
import torch
from torch import Tensor

from .decoding import BLOCK_SAMPLES, CONTAINERS, Pieces, decode
from .errors import HearMwmaeError, reason

#: What `read_audio` reads: a path, the bytes of a file, or a file that is open for reading bytes.
AudioSource = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO
#: Largest accepted magnitude: the spectrum of louder audio (of swapped bytes, for example)
#: overflows float32.
LOUDEST = 1e12
#: Endings that are read from a folder. A file that is named itself may have any ending.
AUDIO_SUFFIXES = frozenset(suffix for suffixes in CONTAINERS.values() for suffix in suffixes)


def find_audio(
    paths: Iterable[str | Path], failures: list[tuple[Path, str]] | None = None
) -> list[Path]:
    """Files themselves, and the audio files in folders, sorted.

    Folders are searched at any depth, and links are followed. What a folder hides (names that begin
    with a dot, ``__MACOSX``) is skipped, unless it is one of ``paths``.

    Args:
        failures: receives missing paths, unreadable folders and folders without audio, each with
            the reason. HearMwmaeError for the first of them when None.
    """
    found: list[Path] = []
    problems: list[tuple[Path, str]] = [] if failures is None else failures
    for path in map(Path, paths):
        try:
            if path.is_dir():
                found += _audio_below(path, problems)
            else:
                path.stat()
                found.append(path)
        except OSError as error:
            problems.append((path, reason(error).lower()))
    if failures is None and problems:
        raise HearMwmaeError("{}: {}".format(*problems[0]))
    return found


def _audio_below(folder: Path, problems: list[tuple[Path, str]]) -> list[Path]:
    before = len(problems)
    files = _files_below(folder, problems)
    audio = sorted(file for file in files if file.suffix.lower() in AUDIO_SUFFIXES)
    if not audio and len(problems) == before:
        problems.append((folder, f"holds no audio files ({' '.join(sorted(AUDIO_SUFFIXES))})"))
    return audio


def _files_below(folder: Path, problems: list[tuple[Path, str]]) -> Iterator[Path]:
    """Also broken links, so that they are reported. A folder that is linked twice counts once."""

    def note(error: OSError) -> None:
        problems.append((Path(error.filename), f"folder cannot be read: {reason(error).lower()}"))

    seen = set()
    for place, folders, names in os.walk(folder, onerror=note, followlinks=True):
        try:
            found = os.stat(place)
        except OSError as error:  # gone in the meantime
            note(error)
            continue
        if (found.st_dev, found.st_ino) in seen:
            folders.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        # Sorted: which of two ways to a folder counts should not depend on the disk.
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield from (Path(place) / name for name in names if not is_hidden(name))


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is skipped inside a named folder."""
    return name.startswith(".") or name == "__MACOSX"


def read_audio(source: AudioSource, sample_rate: int, name: str = "") -> Tensor:
    """Any audio file -> (samples,) float32 at ``sample_rate``, channels averaged.

    n samples become n * sample_rate / rate, rounded, and at least one. The memory is the result and
    a few megabytes. Raises HearMwmaeError for a file that is missing, not audio, empty, shorter
    than its header says, or holds samples that are not finite or above 1e12.

    Args:
        source: a path, the bytes of a file, or a file that is open for reading bytes. It is read
            from its first byte; one that cannot seek is read to its end first.
        name: for messages; the path or the ``name`` of the file when empty.
    """
    given = source if isinstance(source, str | os.PathLike) else getattr(source, "name", "audio")
    name = name or str(given)
    samples = bytearray()  # grows in place: joined arrays would take the memory twice
    with _opened(source, name) as file:
        for piece in _resampled(decode(file, name), sample_rate):
            peak = float(np.abs(piece).max(initial=0))
            if not peak <= LOUDEST:  # NaN is not below anything
                place = len(samples) / 4 / sample_rate
                raise HearMwmaeError(f"{name}: holds {described(peak)} after {place:.1f} s")
            samples += piece.data
    if not samples:
        raise HearMwmaeError(f"{name}: empty, no samples")
    return torch.from_numpy(np.frombuffer(samples, np.float32))


def described(peak: float) -> str:
    """A magnitude above ``LOUDEST`` for a message."""
    return f"samples as large as {peak:.0e}" if np.isfinite(peak) else "NaN or infinity"


def resample(waveform: Tensor, rate: int, sample_rate: int) -> Tensor:
    """(samples,) at ``rate`` -> (samples * sample_rate / rate, rounded) float32, resampled as
    `read_audio` does.
    """
    samples = waveform.detach().cpu().float().numpy()
    return torch.from_numpy(np.concatenate(list(_resampled([(rate, samples)], sample_rate))))


def to_pcm(audio: np.ndarray) -> np.ndarray:
    """Float samples -> int16 of the same shape, times 2^15: the inverse of reading 16-bit audio.

    Full scale is [-1, 1); what lies beyond it is clipped.
    """
    return (audio * 32768).round().clip(-32768, 32767).astype(np.int16)


def _resampled(pieces: Pieces, sample_rate: int) -> Iterator[np.ndarray]:
    """The rate may change: chained streams of web radio."""
    for rate, same in groupby(pieces, itemgetter(0)):
        parts = (part for _, part in same)
        yield from parts if rate == sample_rate else _resampled_from(rate, parts, sample_rate)


def _resampled_from(
    rate: int, parts: Iterable[np.ndarray], sample_rate: int
) -> Iterator[np.ndarray]:
    stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
    step = max(BLOCK_SAMPLES * rate // sample_rate, 1)  # a header may say 1 Hz
    made = 0
    for part in parts:
        for start in range(0, len(part), step):
            out = stream.resample_chunk(np.ascontiguousarray(part[start : start + step]))
            made += len(out)
            yield out
    rest = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    # A few samples at a high rate are less than one sample at a low rate.
    yield rest if made + len(rest) else part.mean(keepdims=True)


@contextmanager
def _opened(source: AudioSource, name: str) -> Iterator[BinaryIO]:
    """The source as an open file that can seek."""
    try:
        if not isinstance(source, str | os.PathLike):
            yield _seekable(source, name)
            return
        path = Path(source)
        if "\0" in str(path):
            raise HearMwmaeError(f"{str(path)!r} is not the name of a file")
        if path.exists() and not path.is_file():
            raise HearMwmaeError(f"{path}: not a file")  # a folder, or a pipe, which might block
        with open(path, "rb", buffering=0) as file:
            yield file
    except OSError as error:
        raise HearMwmaeError(f"{name}: {reason(error).lower()}") from error


def _seekable(source: bytes | bytearray | memoryview | BinaryIO, name: str) -> BinaryIO:
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    if isinstance(source, io.TextIOBase):
        raise HearMwmaeError(f"{name}: opened as text, where bytes are needed: open it with 'rb'")
    # Anything with a method `read` is a file: an answer of a server has no more than that.
    seekable = getattr(source, "seekable", None)
    return source if seekable and seekable() else io.BytesIO(source.read())
