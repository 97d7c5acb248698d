"""Audio files: find, read, mix down, resample."""

from __future__ import annotations

from collections.abc import Iterable
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
            audio = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        reason = "no such file" if not path.exists() else "not an audio file that libsndfile reads, or damaged"
        raise ValueError(f"{path}: {reason} ({str(error).splitlines()[0]})") from error
    if len(audio) < announced:
        raise ValueError(f"{path}: truncated, {len(audio)} of {announced} samples could be read")
    if not len(audio):
        raise ValueError(f"{path}: empty, no samples")
    mono = torch.from_numpy(audio).mean(dim=1)
    return torchaudio.functional.resample(mono, rate, sample_rate) if rate != sample_rate else mono
