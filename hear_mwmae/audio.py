"""Audio files: found in folders, decoded as a stream, mixed down and resampled."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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


@dataclass
class Found:
    """Result of `search_audio`."""

    files: list[Path] = field(default_factory=list)
    #: Missing paths, unreadable folders and folders without audio, each with the reason.
    failures: list[tuple[Path, str]] = field(default_factory=list)


def search_audio(paths: Iterable[str | Path]) -> Found:
    """Files themselves, and the audio files in folders; never raises.

    Folders are searched at any depth, links are followed, and files are sorted. What a folder
    hides (names that begin with a dot, ``__MACOSX``) is skipped, unless it is one of ``paths``.
    """
    found = Found()
    for path in map(Path, paths):
        try:
            if not path.is_dir():
                path.stat()
                found.files.append(path)
                continue
        except FileNotFoundError:
            found.failures.append((path, "no such file or folder"))
            continue
        except OSError as error:
            found.failures.append((path, reason(error).lower()))
            continue
        inside = Found()
        for file in _files_below(path, inside.failures):
            if file.suffix.lower() in AUDIO_SUFFIXES:
                inside.files.append(file)
        if not inside.files and not inside.failures:
            problem = f"holds no audio files ({' '.join(sorted(AUDIO_SUFFIXES))})"
            inside.failures.append((path, problem))
        found.files += sorted(inside.files)
        found.failures += inside.failures
    return found


def find_audio(paths: Iterable[str | Path]) -> list[Path]:
    """The files that `search_audio` finds; HearMwmaeError for the first path that is missing,
    unreadable or without audio.
    """
    found = search_audio(paths)
    for path, problem in found.failures:
        raise HearMwmaeError(f"{path}: {problem}")
    return found.files


def _files_below(folder: Path, failures: list[tuple[Path, str]]) -> Iterator[Path]:
    """Also broken links, so that they are reported. A folder that is linked twice counts once."""

    def note(error: OSError) -> None:
        failures.append((Path(error.filename), f"folder cannot be read: {reason(error).lower()}"))

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
