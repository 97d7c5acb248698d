"""What callers pass as audio, checked: clips of any kind, padded batches and the lengths of their
clips.
"""

import operator
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .audio import LOUDEST, AudioSource, described, read_audio, resample
from .errors import HearMwmaeError, reason

#: Magnitude above which audio is probably not in [-1, 1]: integers as floats, for example.
SUSPICIOUS = 10.0
#: Many clips of so few samples are taken for (samples, channels).
MOST_CHANNELS = 8
#: Hz, the largest rate in the headers of audio files. soxr does not end at rates far above it.
HIGHEST_RATE = (1 << 31) - 1


class AudioDecoder(Protocol):
    """The decoder of torchcodec, which `datasets` returns for a clip."""

    def get_all_samples(self) -> Any:
        """``data`` (channels, samples) floating point, and ``sample_rate`` in Hz."""


#: One clip for `Embedder.embed`: a file, its bytes, (samples,) floating point, or a clip of
#: `datasets`: {"array", "sampling_rate"}, {"bytes", "path"} or a decoder.
Clip = AudioSource | np.ndarray | Tensor | Mapping[str, Any] | AudioDecoder


def waveforms(
    clips: Clip | Iterable[Clip],
    sample_rate: int | None,
    model_rate: int,
    device: torch.device,
    skipped: dict[int, str] | None = None,
) -> Iterator[Tensor]:
    """The `waveform` of each clip, (1, samples).

    Args:
        skipped: receives, by its number, why a clip has no waveform. Raised when None.

    HearMwmaeError if ``clips`` or ``sample_rate`` are of another kind.
    """
    if is_one_clip(clips):
        prefix = ""
        given: Iterable[Any] = [clips]
    else:
        prefix = "clip {}: "
        given = _many_clips(clips)
    rate = _checked_rate(sample_rate)
    for number, clip in enumerate(given):
        try:
            batch = [waveform(clip, rate, model_rate, device)[None]]
        except HearMwmaeError as error:
            problem = prefix.format(number) + str(error)
            if skipped is None:
                raise HearMwmaeError(problem) from error
            skipped[number] = problem
            continue
        yield batch.pop()  # which nothing here keeps while it is encoded


def waveform(clip: Clip, rate: int | None, sample_rate: int, device: torch.device) -> Tensor:
    """A clip of any kind at ``sample_rate``, (samples,) float32 on ``device``, checked.

    Args:
        rate: Hz of an array or tensor, ``sample_rate`` when None. The other clips have their own.

    HearMwmaeError if it is no clip, or cannot be read.
    """
    given: Any = clip
    name = ""
    if isinstance(clip, Mapping):
        given, rate, name = _unpacked(clip)
    elif hasattr(clip, "get_all_samples"):
        given, rate = _decoded(clip)
    if _is_encoded(given):
        source = os.path.expanduser(given) if isinstance(given, str | os.PathLike) else given
        given = read_audio(source, sample_rate, name)
        rate = None
    elif isinstance(given, np.ndarray):
        given = _as_tensor(given)
    if not isinstance(given, Tensor):
        raise HearMwmaeError(
            "a clip must be a path, an open file or its bytes, an audio dict of datasets, or an "
            f"array or tensor (sample_rate={sample_rate} unless it is given), got {given!r:.100}"
        )
    if isinstance(clip, Mapping) and given.ndim == 2 and given.is_floating_point():
        _refuse_channels_last(given.shape)
        given = given.mean(0)  # `datasets` may decode to (channels, samples)
    if given.ndim != 1:
        raise HearMwmaeError(f"a clip must have shape (samples,), got shape {tuple(given.shape)}")
    audio = check_audio(given[None], device)[0]
    return audio if rate in (None, sample_rate) else resample(audio, rate, sample_rate).to(device)


def is_one_clip(clips: Any) -> bool:
    """Whether this is one clip, and not a list of clips; an array of another shape is neither."""
    if isinstance(clips, np.ndarray | Tensor):
        return clips.ndim == 1
    return _is_encoded(clips) or isinstance(clips, Mapping) or hasattr(clips, "get_all_samples")


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
    if not audio.numel():
        raise HearMwmaeError(f"empty audio: shape {tuple(audio.shape)}")
    _refuse_channels_last(audio.shape)
    if not audio.is_floating_point():
        raise HearMwmaeError(_not_floats(audio.dtype))
    audio = audio.detach().to(device, torch.float32)
    peaks = torch.maximum(audio.amax(dim=1), -audio.amin(dim=1))
    if not bool((peaks <= LOUDEST).all()):  # NaN is not below anything
        bad = (~(peaks <= LOUDEST)).nonzero().flatten().tolist()
        numbers = ", ".join(map(str, bad[:10]))
        where = f" in clip {numbers} of {len(audio)}" if len(audio) > 1 else ""
        raise HearMwmaeError(f"audio holds {described(float(peaks.max()))}{where}")
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
        numbers = [operator.index(value) for value in listed]
    except TypeError:
        return []
    return [] if any(isinstance(value, bool) for value in listed) else numbers


def _many_clips(clips: Any) -> Iterable[Any]:
    if isinstance(clips, np.ndarray | Tensor):
        if clips.ndim != 2:
            raise HearMwmaeError(
                f"clips must have shape (samples,) or (clips, samples), got {tuple(clips.shape)}"
            )
        _refuse_channels_last(clips.shape)
    elif not isinstance(clips, Iterable):
        raise HearMwmaeError(
            "clips must be a path, an array, a tensor or a list of these, "
            f"got {type(clips).__name__}"
        )
    return clips


def _checked_rate(rate: Any) -> int | None:
    if rate is None:
        return None
    whole = whole_numbers([rate])
    if not whole or not 0 < whole[0] <= HIGHEST_RATE:
        raise HearMwmaeError(
            f"sample_rate must be a whole number of Hz from 1 to {HIGHEST_RATE}, got {rate!r:.100}"
        )
    return whole[0]


def _is_encoded(clip: Any) -> bool:
    """Whether this is for `read_audio`."""
    kinds = str | os.PathLike | bytes | bytearray | memoryview
    return isinstance(clip, kinds) or hasattr(clip, "read")


def _unpacked(clip: Mapping[str, Any]) -> tuple[Any, int | None, str]:
    """An audio dict of `datasets` -> the clip in it, its rate if it is decoded, and its name."""
    if clip.get("array") is not None:
        if clip.get("sampling_rate") is None:
            raise HearMwmaeError("an audio dict with an array needs its sampling_rate in Hz")
        samples = clip["array"]
        if isinstance(samples, list):  # as a dataset without the type Audio holds it
            samples = np.asarray(samples)
        return samples, _checked_rate(clip["sampling_rate"]), ""
    path = clip.get("path")
    if clip.get("bytes") is not None:
        return clip["bytes"], None, path or ""
    if path is None:
        raise HearMwmaeError(
            "an audio dict must have array and sampling_rate, or bytes or path, "
            f"got the keys {', '.join(map(str, clip)) or 'of an empty one'}"
        )
    return path, None, ""


def _decoded(clip: Any) -> tuple[Tensor, int]:
    try:
        samples = clip.get_all_samples()
    except RuntimeError as error:  # torchcodec's, for a file that is damaged
        raise HearMwmaeError(f"cannot be decoded: {reason(error)}") from error
    return samples.data.mean(dim=0), samples.sample_rate


def _as_tensor(clip: np.ndarray) -> Tensor:
    """An array as a float32 tensor, (...,); HearMwmaeError unless it holds floats."""
    if clip.dtype.kind != "f":
        raise HearMwmaeError(_not_floats(clip.dtype))
    with np.errstate(over="ignore"):  # infinity is refused later
        # torch does not know other orders of bytes, and warns of read-only memory.
        return torch.from_numpy(np.require(clip, np.float32, ["C", "W"]))


def _not_floats(dtype: object) -> str:
    named = isinstance(dtype, np.dtype) and dtype.kind in "OSU"
    hint = "give files as a list" if named else "divide integers by their range"
    return f"audio must be floating point within [-1, 1], got {dtype}: {hint}"


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
