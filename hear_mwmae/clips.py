"""What callers pass as audio, checked: clips of any kind, padded batches and the lengths of their
clips.
"""

from __future__ import annotations

import itertools
import operator
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .audio import read_audio, resample
from .errors import HearMwmaeError

#: Largest accepted magnitude: the spectrum of louder audio (of swapped bytes, for example)
#: overflows float32.
LOUDEST = 1e12
#: Magnitude above which audio is probably not in [-1, 1]: integers as floats, for example.
SUSPICIOUS = 10.0
#: Many clips of so few samples are taken for (samples, channels).
MOST_CHANNELS = 8
#: Hz, the largest rate in the headers of audio files. soxr does not end at rates far above it.
HIGHEST_RATE = (1 << 31) - 1

#: One clip for `Embedder.embed`: a file, or (samples,) floating point.
Clip = str | os.PathLike | np.ndarray | Tensor


def listed_clips(
    clips: Clip | Iterable[Clip], sample_rate: int | Sequence[int] | None
) -> Iterator[tuple[Clip, int | None]]:
    """One clip or many, with the rate of each in Hz, None for the model's; HearMwmaeError if they
    are of another kind.
    """
    if isinstance(clips, str | os.PathLike):
        clips = [clips]
    elif isinstance(clips, np.ndarray | Tensor):
        if clips.ndim not in (1, 2):
            raise HearMwmaeError(
                f"clips must have shape (samples,) or (clips, samples), got {tuple(clips.shape)}"
            )
        if clips.ndim == 2:
            _refuse_channels_last(clips.shape)
        clips = [clips] if clips.ndim == 1 else list(clips)
    elif not isinstance(clips, Iterable):
        raise HearMwmaeError(
            "clips must be a path, an array, a tensor or a list of these, "
            f"got {type(clips).__name__}"
        )
    if not isinstance(sample_rate, Sequence | np.ndarray) or isinstance(sample_rate, str):
        _check_rate(sample_rate)
        return zip(clips, itertools.repeat(sample_rate))
    clips = list(clips)
    if len(sample_rate) != len(clips):
        raise HearMwmaeError(
            "sample_rate must be one number or one for each clip: "
            f"{len(sample_rate)} for {len(clips)} clips"
        )
    for rate in sample_rate:
        _check_rate(rate)
    return zip(clips, sample_rate, strict=True)


def waveform(clip: Clip, rate: int | None, sample_rate: int, device: torch.device) -> Tensor:
    """A clip at ``sample_rate``, (samples,) float32 on ``device``.

    HearMwmaeError if it is no clip.
    """
    if isinstance(clip, str | os.PathLike):
        return read_audio(Path(os.path.expanduser(clip)), sample_rate).to(device)
    if isinstance(clip, np.ndarray):
        clip = _as_tensor(clip)
    if not isinstance(clip, Tensor) or clip.ndim != 1:
        got = f"shape {tuple(clip.shape)}" if isinstance(clip, Tensor) else repr(clip)[:100]
        raise HearMwmaeError(
            f"a clip must be a path, or an array or tensor of shape (samples,), got {got}"
        )
    clip = check_audio(clip[None], device)[0]
    return clip if rate in (None, sample_rate) else resample(clip, rate, sample_rate).to(device)


def check_audio(audio: Tensor, device: torch.device) -> Tensor:
    """The audio as float32 on a device; HearMwmaeError if it is not a batch of finite
    floating-point clips.
    """
    if not isinstance(audio, Tensor):
        raise HearMwmaeError(
            f"audio must be a torch tensor of shape (clips, samples), got {type(audio).__name__}"
        )
    if audio.ndim != 2:
        raise HearMwmaeError(
            f"audio must have shape (clips, samples), got {tuple(audio.shape)}; "
            "one clip is audio[None]"
        )
    if not len(audio):
        raise HearMwmaeError(f"no audio in the batch: shape {tuple(audio.shape)}")
    if not audio.shape[1]:
        raise HearMwmaeError(
            f"empty audio: shape {tuple(audio.shape)}, at least 1 sample is needed"
        )
    _refuse_channels_last(audio.shape)
    if audio.layout != torch.strided:
        raise HearMwmaeError(f"audio must be a dense tensor, got layout {audio.layout}")
    if not audio.is_floating_point():
        raise HearMwmaeError(_not_floats(audio.dtype))
    audio = audio.detach().to(device, torch.float32)
    peaks = torch.maximum(audio.amax(dim=1), -audio.amin(dim=1))
    if not bool((peaks <= LOUDEST).all()):  # NaN is not below anything
        bad = (~(peaks <= LOUDEST)).nonzero().flatten().tolist()
        what = (
            "NaN or infinity"
            if not bool(peaks.isfinite().all())
            else f"samples as large as {float(peaks.max()):.0e}"
        )
        raise HearMwmaeError(
            f"audio holds {what} in clip {', '.join(map(str, bad[:10]))} of {len(audio)}"
        )
    if bool((peaks > SUSPICIOUS).any()):
        warnings.warn(
            f"audio reaches {float(peaks.max()):.3g}, where [-1, 1] is expected: "
            "divide integers by their range",
            stacklevel=2,
        )
    return audio


def cut(audio: Tensor, lengths: Sequence[int] | Tensor) -> list[Tensor]:
    """The clips of a padded batch without their padding."""
    numbers = whole_numbers(lengths)
    if len(numbers) != len(audio) or not all(0 < number <= audio.shape[1] for number in numbers):
        raise HearMwmaeError(
            f"lengths must be the samples of each of the {len(audio)} clips, "
            f"from 1 to {audio.shape[1]}, "
            f"got {str(lengths)[:100]}"
        )
    return [clip[:length] for clip, length in zip(audio, numbers, strict=True)]


def whole_numbers(values: Any) -> list[int]:
    """Integers of a sequence, an array or a tensor; [] if ``values`` is or holds anything else."""
    try:
        listed = values.tolist() if isinstance(values, Tensor | np.ndarray) else list(values)
        return (
            []
            if any(isinstance(value, bool) for value in listed)
            else [operator.index(value) for value in listed]
        )
    except TypeError:
        return []


def _check_rate(rate: Any) -> None:
    if rate is None:
        return
    whole = isinstance(rate, int | np.integer) and not isinstance(rate, bool)
    if not whole or not 0 < rate <= HIGHEST_RATE:
        got = "more" if whole and rate > HIGHEST_RATE else repr(rate)
        raise HearMwmaeError(
            f"sample_rate must be a whole number of Hz from 1 to {HIGHEST_RATE}, got {got}"
        )


def _as_tensor(clip: np.ndarray) -> Tensor:
    """An array as a tensor of the same values, (...,); HearMwmaeError unless it holds floats."""
    if clip.dtype.kind != "f":
        raise HearMwmaeError(_not_floats(clip.dtype))
    # torch knows neither other orders of bytes nor long doubles, and warns of read-only memory.
    kind = np.dtype(np.float64) if clip.itemsize > 8 else clip.dtype.newbyteorder("=")
    native = np.ascontiguousarray(clip, kind)
    return torch.from_numpy(native if native.flags.writeable else native.copy())


def _not_floats(dtype: object) -> str:
    return (
        f"audio must be floating point within [-1, 1], got {dtype}: divide integers by their range"
    )


def _refuse_channels_last(shape: Sequence[int]) -> None:
    """`soundfile.read` returns (samples, channels), which would be thousands of clips of two
    samples.
    """
    clips, samples = shape
    if clips > MOST_CHANNELS >= samples:
        raise HearMwmaeError(
            f"audio of shape {tuple(shape)} looks like (samples, channels), "
            "where (clips, samples) is expected: "
            "average the channels (audio.mean(1)), or give a list of clips"
        )
