"""Audio files: find, read as a stream, mix down, resample."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from . import ffmpeg
from .errors import HearMwmaeError
from .extras import install_hint
from .truncation import UNKNOWN_FRAMES, announced_frames, is_cut_short, is_left_unread

#: libsndfile's formats, and the endings of their files. Excluded are matrices and features (MAT4,
#: MAT5, HTK), which are rarely audio; sampler dumps (MPC2K, SDS, XI); RAW, which has no header;
#: SD2, whose sample rate is in a resource fork.
_SNDFILE_SUFFIXES = {
    "AIFF": (".aif", ".aiff", ".aifc"),
    "AU": (".au", ".snd"),
    "AVR": (".avr",),
    "CAF": (".caf",),
    "FLAC": (".flac",),
    "IRCAM": (".sf", ".ircam"),
    "MP3": (".mp3", ".mp2"),
    "NIST": (".nist", ".sph"),
    "OGG": (".ogg", ".oga", ".opus"),
    "PAF": (".paf",),
    "PVF": (".pvf",),
    "RF64": (".rf64",),
    "SVX": (".8svx", ".svx"),
    "VOC": (".voc",),
    "W64": (".w64",),
    "WAV": (".wav", ".wave"),
    "WVE": (".wve",),
}
_NO_READER = (".aax", ".dff", ".dsf", ".dts", ".m4p", ".mpc", ".pcm", ".ra", ".rm", ".sd2", ".shn", ".tak")
#: Endings that are read from a folder: what this libsndfile reads, and FFmpeg if PyAV is installed.
#: A file that is named itself may have any ending.
AUDIO_SUFFIXES = frozenset(end for name in soundfile.available_formats() for end in _SNDFILE_SUFFIXES.get(name, ())) | (
    ffmpeg.SUFFIXES if ffmpeg.is_installed() else frozenset()
)
#: Endings of recordings and videos that no installed library reads.
UNREADABLE_SUFFIXES = ffmpeg.SUFFIXES.union(_NO_READER, *_SNDFILE_SUFFIXES.values()) - AUDIO_SUFFIXES

#: Samples, over all channels, that are decoded or resampled at a time. It does not depend on any
#: header.
BLOCK_SAMPLES = 1 << 18
#: libsndfile's error codes of unknown formats and codings.
_UNKNOWN_TO_SNDFILE = (1, 4)


@dataclass
class Found:
    """Result of `search_audio`."""

    files: list[Path] = field(default_factory=list)
    #: Number of files by ending that look like recordings and cannot be read.
    passed_over: Counter[str] = field(default_factory=Counter)
    #: Missing paths, unreadable folders and folders without audio, each with the reason.
    failures: list[tuple[Path, str]] = field(default_factory=list)

    def passed_over_line(self) -> str:
        """``passed_over`` as text, "3 .m4a, 1 .webm (…)"; "" if it is empty."""
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(self.passed_over.items()))
        return counts + (f" (PyAV reads more: {install_hint('av')})" if ffmpeg.SUFFIXES & self.passed_over.keys() else "")


def search_audio(paths: Iterable[str | Path]) -> Found:
    """Files themselves, and the audio files in folders: at any depth, in sorted order, links
    followed. Never raises.
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
            found.failures.append((path, _reason(error)))
            continue
        inside = Found()
        for file in _files_below(path, inside.failures):
            suffix = file.suffix.lower()
            if suffix in AUDIO_SUFFIXES:
                inside.files.append(file)
            elif suffix in UNREADABLE_SUFFIXES:
                inside.passed_over[suffix] += 1
        if not inside.files and not inside.failures:
            others = f"; not read: {inside.passed_over_line()}" if inside.passed_over else ""
            inside.failures.append((path, f"holds no audio files ({' '.join(sorted(AUDIO_SUFFIXES))}){others}"))
        found.files += sorted(inside.files)
        found.passed_over += inside.passed_over
        found.failures += inside.failures
    return found


def find_audio(paths: Iterable[str | Path]) -> list[Path]:
    """The files that `search_audio` finds; HearMwmaeError for the first path that is missing,
    unreadable or without audio.
    """
    found = search_audio(paths)
    for path, reason in found.failures:
        raise HearMwmaeError(f"{path}: {reason}")
    return found.files


def _files_below(folder: Path, failures: list[tuple[Path, str]]) -> Iterator[Path]:
    """Also broken links, so that they are reported. A folder that is linked twice counts once."""

    def note(error: OSError) -> None:
        failures.append((Path(error.filename), f"folder cannot be read: {_reason(error)}"))

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
        folders.sort()  # which of two ways to a folder counts should not depend on the disk
        yield from (Path(place) / name for name in names)


def read_audio(source: str | Path | BinaryIO, sample_rate: int) -> Tensor:
    """Any file that libsndfile reads, or FFmpeg with PyAV -> (samples,) float32 in [-1, 1].

    Channels are averaged and resampled to ``sample_rate``: n samples become n * sample_rate / rate,
    rounded, and at least one. Raises HearMwmaeError for a file that is missing, not audio, empty,
    or shorter than its header says.

    Args:
        source: a path, or a file that is open for reading bytes and can seek; its ``name`` is for
            messages.
    """
    return torch.cat(list(read_blocks(source, sample_rate)))


def read_blocks(source: str | Path | BinaryIO, sample_rate: int, seconds: float = 60.0) -> Iterator[Tensor]:
    """`read_audio` in blocks of ``seconds``, the last one shorter.

    The joined blocks equal its result.

    The memory is one block and a few megabytes, for any length of the file. Raises as `read_audio`
    does; the error of a truncated file may come after its last block.
    """
    size = max(round(seconds * sample_rate), 1)
    held, count = [], 0
    for piece in _resampled(_decoded(source), sample_rate):
        while count + len(piece) >= size:
            held.append(piece[: size - count])
            piece = piece[size - count :]
            yield torch.from_numpy(np.concatenate(held))
            held, count = [], 0
        held.append(piece)
        count += len(piece)
    if count:
        yield torch.from_numpy(np.concatenate(held))


def resample(waveform: Tensor, rate: int, sample_rate: int) -> Tensor:
    """(samples,) at ``rate`` -> (samples * sample_rate / rate, rounded) float32, resampled as
    `read_audio` does.
    """
    pieces = list(_resampled([(rate, waveform.detach().cpu().float().numpy())], sample_rate))
    return torch.from_numpy(np.concatenate(pieces)) if pieces else torch.zeros(0)


def audio_seconds(path: str | Path) -> float | None:
    """Length that a file's header announces, for progress bars; None without a length or a readable
    header.
    """
    path = Path(path)
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb", buffering=0) as stream, soundfile.SoundFile(_for_sndfile(stream)) as file:
            frames, rate = announced_frames(file, stream), file.samplerate
    except soundfile.LibsndfileError as error:
        return ffmpeg.audio_seconds(path) if error.code in _UNKNOWN_TO_SNDFILE else None
    except OSError:
        return None
    return frames / rate if 0 < frames < UNKNOWN_FRAMES else None


def _resampled(pieces: Iterable[tuple[int, np.ndarray]], sample_rate: int) -> Iterator[np.ndarray]:
    """(rate, (n,) float32) pieces of one recording, all at one rate -> pieces at
    ``sample_rate``.
    """
    stream, made = None, 0
    for rate, piece in pieces:
        if rate == sample_rate:
            yield piece
            continue
        stream = stream or soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
        step = max(BLOCK_SAMPLES * rate // sample_rate, 1)  # a header may say 1 Hz
        for start in range(0, len(piece), step):
            out = stream.resample_chunk(np.ascontiguousarray(piece[start : start + step]))
            made += len(out)
            yield out
    if stream is not None:
        rest = stream.resample_chunk(np.zeros(0, np.float32), last=True)
        # A few samples at a high rate are less than one sample at a low rate.
        yield rest if made + len(rest) else piece.mean(keepdims=True)


class _Sequential(soundfile.SoundFile):
    """Reads from front to back: soundfile would seek after every block, which needs the true
    length.
    """

    def seekable(self) -> bool:
        return False


def _decoded(source: str | Path | BinaryIO) -> Iterator[tuple[int, np.ndarray]]:
    """(sample rate, (n,) float32) pieces of a file, channels averaged."""
    if not isinstance(source, (str, Path)):
        yield from _decoded_stream(source, getattr(source, "name", "audio"))
        return
    path = Path(source)
    if "\0" in str(path):
        raise HearMwmaeError(f"{str(path)!r} is not the name of a file")
    try:
        if path.exists() and not path.is_file():
            raise HearMwmaeError(f"{path}: not a file")  # a folder, or a pipe, which might block
        with open(path, "rb", buffering=0) as stream:
            yield from _decoded_stream(stream, str(path))
    except OSError as error:
        raise HearMwmaeError(f"{path}: {_reason(error)}") from error


def _decoded_stream(stream: BinaryIO | FileIO, name: str) -> Iterator[tuple[int, np.ndarray]]:
    try:
        yield from _decoded_by_sndfile(stream, name)
    except soundfile.LibsndfileError as error:
        if error.code not in _UNKNOWN_TO_SNDFILE or not _may_be_ffmpegs(name):
            raise HearMwmaeError(
                f"{name}: not an audio file that libsndfile reads, or damaged ({error.error_string.splitlines()[0]})"
            ) from error
        stream.seek(0)
        yield from ffmpeg.read(stream, name)


def _decoded_by_sndfile(stream: BinaryIO | FileIO, name: str) -> Iterator[tuple[int, np.ndarray]]:
    with _Sequential(_for_sndfile(stream)) as file:
        announced = announced_frames(file, stream)
        if is_cut_short(file, stream):
            raise HearMwmaeError(f"{name}: truncated, it ends before what its header announces")
        # A header may say 1024 channels and 2^35 frames. Without a length the blocks are small:
        # libsndfile decodes a complete block before it drops the samples beyond the presumed end.
        size = max((BLOCK_SAMPLES if announced < UNKNOWN_FRAMES else BLOCK_SAMPLES // 64) // file.channels, 1)
        done, mix = 0, np.full(file.channels, 1 / file.channels, np.float32)
        while True:
            block = file.read(size, dtype="float32", always_2d=True)
            done += len(block)
            if len(block):
                yield file.samplerate, block @ mix
            if len(block) < size:
                break
        if announced >= UNKNOWN_FRAMES and is_left_unread(file, stream):
            raise HearMwmaeError(f"{name}: libsndfile finds the end of this MP3 too early (varying bit rate, no Xing header)")
    if done < announced < UNKNOWN_FRAMES:
        raise HearMwmaeError(f"{name}: truncated, only {done} of {announced} samples could be read")
    if not done:
        raise HearMwmaeError(f"{name}: empty, no samples")


def _for_sndfile(stream: BinaryIO | FileIO) -> int | str | BinaryIO:
    """The descriptor of a file on a disk: soundfile would encode a name, and fail if it is not
    UTF-8.
    """
    if not isinstance(stream, FileIO):
        return stream
    # A copy for libsndfile to close: 1.2.0 always closes the descriptor of a file that it cannot
    # read.
    return os.dup(stream.fileno()) if os.name == "posix" else str(stream.name)


def _may_be_ffmpegs(name: str) -> bool:
    """Whether :mod:`ffmpeg` should try a file that libsndfile does not know, or report that PyAV is
    missing.
    """
    return ffmpeg.is_installed() or Path(name).suffix.lower() in ffmpeg.SUFFIXES


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
