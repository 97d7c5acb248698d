"""Audio files: find, read, mix down, resample."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import soundfile
import torch
import torchaudio
from torch import Tensor

#: Endings that are picked up from a folder; a file that is named itself may have any.
AUDIO_SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64"))


def find_audio(paths: Iterable[str | Path]) -> list[Path]:
    """Files as they are, folders as the audio files below them in sorted order. Raises ValueError where nothing is found."""
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"no such file or folder: {path}")
        if path.is_dir():
            below = sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
            if not below:
                raise ValueError(f"folder {path} holds no audio files ({' '.join(sorted(AUDIO_SUFFIXES))})")
            found += below
        else:
            found.append(path)
    return found


def read_audio(path: str | Path, sample_rate: int) -> Tensor:
    """Any file libsndfile reads -> (samples,) float32 in [-1, 1]: channels averaged, resampled to ``sample_rate``.

    Raises ValueError for a file that is missing, not audio, empty, or shorter than its header says.
    """
    path = Path(path)
    try:
        with soundfile.SoundFile(path) as file:
            announced, rate = file.frames, file.samplerate
            cut_short = _lacks_data(file.extra_info) or _lacks_page(path)
            audio = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        reason = "no such file" if not path.exists() else "not an audio file that libsndfile reads, or damaged"
        raise ValueError(f"{path}: {reason} ({str(error).splitlines()[0]})") from error
    if cut_short or len(audio) < announced:
        raise ValueError(f"{path}: truncated, only {len(audio)} samples could be read")
    if not len(audio):
        raise ValueError(f"{path}: empty, no samples")
    mono = torch.from_numpy(audio).mean(dim=1)
    # torchaudio's filters grow with the terms of the ratio: 44100 Hz needs 441 of them, 44101 Hz would need 44101. The nearest
    # ratio of small terms is off by less than 4e-5, a fifteenth of a cent; usual rates are exact.
    ratio = Fraction(sample_rate, rate).limit_denominator(1000)
    return torchaudio.functional.resample(mono, ratio.denominator, ratio.numerator) if ratio != 1 else mono


def _lacks_data(log: str) -> bool:
    """Whether libsndfile's log says that the samples (of WAV, AIFF, AU) are fewer than the header announces.

    It reads such files without complaint. Sizes close to 2^32 are those of streams, whose length was not known beforehand.
    """
    sizes = re.findall(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    return any(int(actual) < int(announced) < 0xFFFFFF00 for announced, actual in sizes)


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
