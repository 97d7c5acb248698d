"""Audio files: find, read, mix down, resample."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

from .errors import HearMwmaeError

#: Endings that are picked up from a folder; a file that is named itself may have any.
AUDIO_SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64"))
#: Frames that are read at a time: a header's word on how many there are may be wrong, or missing.
BLOCK_FRAMES = 1 << 24
#: Lengths from here on say that whoever wrote the header did not know: libsndfile's word for it is 2^63 - 1.
UNKNOWN_FRAMES = 1 << 62
#: Sizes of the data in the headers of WAV files that were streamed: by SoX, by arecord; close to 2^32, by FFmpeg and others.
STREAMED_BYTES = (0x7FFFF000, 0x80000000)
STREAMED_FROM = 0xFFFFFF00


def find_audio(paths: Iterable[str | Path]) -> list[Path]:
    """Files as they are, folders as the audio files at any depth below them in sorted order, behind links, too.

    Raises HearMwmaeError where nothing is found, or a folder cannot be read.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise HearMwmaeError(f"no such file or folder: {path}")
        if path.is_dir():
            below = sorted(file for file in _files_below(path) if file.suffix.lower() in AUDIO_SUFFIXES)
            if not below:
                raise HearMwmaeError(f"folder {path} holds no audio files ({' '.join(sorted(AUDIO_SUFFIXES))})")
            found += below
        else:
            found.append(path)
    return found


def _files_below(folder: Path) -> Iterator[Path]:
    """Also links that lead nowhere, so that they are reported; a folder that links lead to twice counts once."""

    def refuse(error: OSError) -> None:
        raise HearMwmaeError(f"folder {error.filename} cannot be read: {error.strerror}") from error

    seen = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        found = os.stat(place)
        if (found.st_dev, found.st_ino) in seen:
            folders.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        folders.sort()  # which of two ways to a folder counts should not depend on the disk
        yield from (Path(place) / name for name in names)


class _Sequential(soundfile.SoundFile):
    """Read from front to back: soundfile would seek after every block, which needs the true length."""

    def seekable(self) -> bool:
        return False


def read_audio(path: str | Path, sample_rate: int) -> Tensor:
    """Any file libsndfile reads -> (samples,) float32 in [-1, 1]: channels averaged, resampled to ``sample_rate``.

    Raises HearMwmaeError for a file that is missing, not audio, empty, or shorter than its header says.
    """
    path = Path(path)
    try:
        with _Sequential(path) as file:
            announced, rate = file.frames, file.samplerate
            cut_short = _lacks_data(file.extra_info) or _lacks_page(path)
            # A frame more than there should be: the block that comes short is the last.
            size = min(announced + 1, BLOCK_FRAMES)
            blocks = [file.read(size, dtype="float32", always_2d=True)]
            while len(blocks[-1]) == size:
                blocks.append(file.read(size, dtype="float32", always_2d=True))
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError) as error:  # TypeError: headerless, by its name
        reason = "no such file" if not path.exists() else "not an audio file that libsndfile reads, or damaged"
        raise HearMwmaeError(f"{path}: {reason} ({str(error).splitlines()[0]})") from error
    audio = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
    if cut_short or len(audio) < announced < UNKNOWN_FRAMES:
        raise HearMwmaeError(f"{path}: truncated, only {len(audio)} samples could be read")
    if not len(audio):
        raise HearMwmaeError(f"{path}: empty, no samples")
    mono = torch.from_numpy(audio).mean(dim=1)
    # torchaudio's filters grow with the terms of the ratio: 44100 Hz needs 441 of them, 44101 Hz would need 44101. The nearest
    # ratio of small terms is off by 5e-4 at most, less than a cent; usual rates are exact.
    ratio = Fraction(sample_rate, rate).limit_denominator(1000)
    return torchaudio.functional.resample(mono, ratio.denominator, ratio.numerator) if ratio != 1 else mono


def _lacks_data(log: str) -> bool:
    """Whether libsndfile's log says that the samples (of WAV, AIFF, AU) are fewer than the header announces.

    It reads such files without complaint.
    """
    sizes = re.findall(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    pairs = [(int(announced), int(actual)) for announced, actual in sizes]
    return any(actual < announced < STREAMED_FROM and announced not in STREAMED_BYTES for announced, actual in pairs)


def _lacks_page(path: Path) -> bool:
    """Whether the last page of an Ogg file (Vorbis, Opus) is incomplete: libsndfile passes over it in silence."""
    with open(path, "rb") as stream:
        if stream.read(4) != b"OggS":
            return False
        stream.seek(max(path.stat().st_size - 65307, 0))  # the largest page
        tail = stream.read()
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    # 27 bytes of header, the last of which counts the segments; their sizes; the segments.
    return len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


def read_blocks(path: str | Path, sample_rate: int, seconds: float = 60.0) -> Iterator[Tensor]:
    yield from read_audio(path, sample_rate).split(int(seconds * sample_rate))


def resample(waveform: Tensor, rate: int, sample_rate: int) -> Tensor:
    ratio = Fraction(sample_rate, rate).limit_denominator(1000)
    return torchaudio.functional.resample(waveform, ratio.denominator, ratio.numerator)
