"""What callers pass as audio, checked: clips of any kind, padded batches and the lengths of their
clips.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .audio import read_blocks, resample
from .errors import HearMwmaeError

#: Largest accepted magnitude: the spectrum of louder audio (of swapped bytes, for example)
#: overflows float32.
LOUDEST = 1e12
#: Hz, the largest rate in the headers of audio files. soxr does not end at rates far above it.
HIGHEST_RATE = (1 << 31) - 1

#: One clip for `Embedder.embed`: a file, or (samples,) floating point.
Clip = str | os.PathLike | np.ndarray | Tensor


def listed_clips(clips: Clip | Sequence[Clip], sample_rate: int | Sequence[int] | None) -> list[tuple[Clip, int | None]]:
    """One clip or many, with the rate of each in Hz, None for the model's; HearMwmaeError if they
    are of another kind.
    """
    if isinstance(clips, str | os.PathLike):
        clips = [clips]
    elif isinstance(clips, np.ndarray | Tensor):
        if clips.ndim not in (1, 2):
            raise HearMwmaeError(f"clips must have shape (samples,) or (clips, samples), got {tuple(clips.shape)}")
        clips = [clips] if clips.ndim == 1 else list(clips)
    elif not isinstance(clips, Sequence):
        raise HearMwmaeError(f"clips must be a path, an array, a tensor or a list of these, got {type(clips).__name__}")
    if not len(clips):
        raise HearMwmaeError("no audio: the list of clips is empty")
    rates = list(sample_rate) if isinstance(sample_rate, Sequence | np.ndarray) else [sample_rate] * len(clips)
    if len(rates) != len(clips):
        raise HearMwmaeError(f"sample_rate must be one number or one for each clip: {len(rates)} for {len(clips)} clips")
    for rate in rates:
        if rate is not None and not (isinstance(rate, int | np.integer) and 0 < rate <= HIGHEST_RATE):
            got = "more" if isinstance(rate, int) and rate > HIGHEST_RATE else repr(rate)
            raise HearMwmaeError(f"sample_rate must be a whole number of Hz from 1 to {HIGHEST_RATE}, got {got}")
    return list(zip(clips, rates, strict=True))


def clip_blocks(clip: Clip, rate: int | None, sample_rate: int, device: torch.device) -> Iterable[Tensor]:
    """A clip at ``sample_rate`` in blocks, each (samples,); a file is read block by block.

    HearMwmaeError if it is no clip.
    """
    if isinstance(clip, str | os.PathLike):
        return read_blocks(Path(os.path.expanduser(clip)), sample_rate)
    if isinstance(clip, np.ndarray) and clip.dtype.kind in "fiu":
        # torch knows neither other orders of bytes nor long doubles.
        kind = np.float64 if clip.dtype.kind == "f" and clip.itemsize > 8 else clip.dtype.newbyteorder("=")
        clip = torch.from_numpy(np.ascontiguousarray(clip, kind))
    if not isinstance(clip, Tensor) or clip.ndim != 1:
        got = f"shape {tuple(clip.shape)}" if isinstance(clip, np.ndarray | Tensor) else repr(clip)[:100]
        raise HearMwmaeError(f"a clip must be a path, or an array or tensor of shape (samples,), got {got}")
    clip = check_audio(clip[None], device)[0]
    return [clip if rate in (None, sample_rate) else resample(clip, rate, sample_rate)]


def check_audio(audio: Tensor, device: torch.device) -> Tensor:
    """The audio as float32 on a device; HearMwmaeError if it is not a batch of finite
    floating-point clips.
    """
    if not isinstance(audio, Tensor):
        raise HearMwmaeError(f"audio must be a torch tensor of shape (clips, samples), got {type(audio).__name__}")
    if audio.ndim != 2:
        raise HearMwmaeError(f"audio must have shape (clips, samples), got {tuple(audio.shape)}; one clip is audio[None]")
    if not len(audio):
        raise HearMwmaeError(f"no audio in the batch: shape {tuple(audio.shape)}")
    if not audio.shape[1]:
        raise HearMwmaeError(f"empty audio: shape {tuple(audio.shape)}, at least 1 sample is needed")
    if audio.layout != torch.strided:
        raise HearMwmaeError(f"audio must be a dense tensor, got layout {audio.layout}")
    if not audio.is_floating_point():
        raise HearMwmaeError(f"audio must be floating point within [-1, 1], got {audio.dtype}: divide integers by their range")
    audio = audio.detach().to(device, torch.float32)
    peaks = audio.abs().amax(dim=1)
    if not bool((peaks <= LOUDEST).all()):  # NaN is not below anything
        bad = (~(peaks <= LOUDEST)).nonzero().flatten().tolist()
        what = "NaN or infinity" if not bool(peaks.isfinite().all()) else f"samples as large as {float(peaks.max()):.0e}"
        raise HearMwmaeError(f"audio holds {what} in clip {', '.join(map(str, bad[:10]))} of {len(audio)}")
    return audio


def cut(audio: Tensor, lengths: Sequence[int] | Tensor) -> list[Tensor]:
    """The clips of a padded batch without their padding."""
    numbers = whole_numbers(lengths)
    if len(numbers) != len(audio) or not all(0 < number <= audio.shape[1] for number in numbers):
        raise HearMwmaeError(
            f"lengths must be the samples of each of the {len(audio)} clips, from 1 to {audio.shape[1]}, got {str(lengths)[:100]}"
        )
    return [clip[:length] for clip, length in zip(audio, numbers, strict=True)]


def whole_numbers(values: Any) -> list[int]:
    """Integers of a sequence, an array or a tensor; [] if ``values`` is or holds anything else."""
    try:
        listed = values.tolist() if isinstance(values, Tensor | np.ndarray) else list(values)
        return [] if any(isinstance(value, bool) for value in listed) else [operator.index(value) for value in listed]
    except TypeError:
        return []
