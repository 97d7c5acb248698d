"""Waveform -> per-clip normalised log-mel spectrogram."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .config import FrontendConfig

#: A clip whose log-mel deviates by less than this is silence or a constant: only rounding errors of
#: the transform remain.
SILENCE_STD = 1e-4


class LogMelFrontend(nn.Module):
    """(B, samples) float waveform in [-1, 1] -> (B, frames, n_mels) float32, frames = samples //
    hop_length + 1.

    Frames are centred on multiples of the hop. Both ends are extended by reflection, repeatedly if
    the clip is shorter than half a window. Always computed in float32.
    """

    #: Frames per transform: bounds the memory for long and for many clips, and does not change the
    #: result.
    block_frames = 1 << 13

    window: Tensor  #: (win_length,)
    filterbank: Tensor  #: (n_fft // 2 + 1, n_mels)

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.config = config
        window = torch.hann_window(config.win_length, dtype=torch.float32)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filterbank", mel_filterbank(config), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LogMelFrontend:
        """Follow the model to its device, but stay float32: half-precision features would be wrong
        without an error.
        """
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)

    def forward(self, waveform: Tensor) -> Tensor:
        """The features of inference: `log_mel`, normalised per clip with the unbiased deviation."""
        return normalise(self.log_mel(waveform), unbiased=True)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """(B, samples) -> (B, frames, n_mels): log(power mel spectrogram + log_offset)."""
        config = self.config
        half = config.n_fft // 2
        frames = config.frames(waveform.shape[1])
        # Many short clips at once, or a part of one long clip.
        clips = []
        for group in waveform.float().split(max(self.block_frames // frames, 1)):
            clips.append(torch.cat(self._log_mel_blocks(reflect_pad(group, half, half), frames), dim=1))
        return torch.cat(clips)

    def stream(self, blocks: Iterable[Tensor]) -> Tensor:
        """The features of one clip in blocks of any lengths, each (samples,): (frames, n_mels), as
        in `forward`.

        The spectrogram, 80 floats per 10 ms, and one block of samples are in memory.
        """
        log_mel = self._log_mel_of(blocks)
        std, mean = torch.std_mean(log_mel)
        if std <= SILENCE_STD:
            return log_mel.zero_()
        return log_mel.sub_(mean).div_(std + 1e-8)  # in place: hours of audio make gigabytes

    def _log_mel_of(self, blocks: Iterable[Tensor]) -> Tensor:
        config, half = self.config, self.config.n_fft // 2
        pieces: list[Tensor] = []
        held = torch.empty(0, device=self.window.device)  # samples from the first frame on that is not computed yet
        recent, seen = held, 0  # the last samples, for the reflection at the end
        for block in blocks:
            block = block.to(self.window.device, torch.float32)
            first, seen = seen <= half, seen + len(block)
            recent = torch.cat([recent, block])[-(half + 1) :] if first or len(block) <= half else block[-(half + 1) :]
            held = torch.cat([held, block])
            if seen <= half:  # too short for a reflection at its beginning yet
                continue
            if first:
                held = reflect_pad(held[None], half, 0)[0]
            frames = (len(held) - config.n_fft) // config.hop_length + 1
            if frames >= self.block_frames:
                pieces += self._log_mel_blocks(held[None], frames)
                held = held[frames * config.hop_length :]
        if seen <= half:
            return self.log_mel(held[None])[0]
        held = torch.cat([held, recent[reflect_index(len(recent), len(recent), len(recent) + half, recent.device)]])
        frames = config.frames(seen) - sum(piece.shape[1] for piece in pieces)
        pieces += self._log_mel_blocks(held[None], frames)
        return torch.cat(pieces, dim=1)[0]

    def _log_mel_blocks(self, padded: Tensor, frames: int) -> list[Tensor]:
        """The first ``frames`` frames of padded waveforms, (B, block_frames, n_mels) at a time."""
        starts = range(0, frames, self.block_frames)
        return [self._log_mel_block(padded, first, min(first + self.block_frames, frames)) for first in starts]

    def _log_mel_block(self, padded: Tensor, first: int, last: int) -> Tensor:
        """Frames first..last-1 of padded waveforms."""
        config = self.config
        piece = padded[:, first * config.hop_length : (last - 1) * config.hop_length + config.n_fft]
        spectrum = torch.stft(
            piece, config.n_fft, config.hop_length, config.win_length, self.window, center=False, return_complex=True
        )
        power = spectrum.abs().square().transpose(1, 2)
        with torch.autocast(power.device.type, enabled=False):  # an ambient autocast would round the product to half precision
            return torch.log(power @ self.filterbank + config.log_offset)


def mel_filterbank(config: FrontendConfig) -> Tensor:
    """Triangular filters of unit height, equally wide on HTK's mel scale: (n_fft // 2 + 1, n_mels)
    float32.

    HTK's scale is mel = 2595 log10(1 + Hz / 700) (S. Young et al., The HTK Book). All in float32:
    the models were trained on filters with its roundings, which differ from exact filters by 8e-6.
    """
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (config.f_min, config.f_max))
    edges = 700 * (10 ** (torch.linspace(low, high, config.n_mels + 2) / 2595) - 1)
    bins = torch.linspace(0, config.sample_rate / 2, config.n_fft // 2 + 1)[:, None]
    widths = edges.diff()
    rising = (bins - edges[:-2]) / widths[:-1]
    falling = (edges[2:] - bins) / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0)


def normalise(log_mel: Tensor, unbiased: bool) -> Tensor:
    """Zero mean and unit deviation over each clip, (B, frames, n_mels); silence becomes zeros.

    The authors use the unbiased deviation at inference and the population deviation in pretraining.
    """
    std, mean = torch.std_mean(log_mel, dim=(1, 2), correction=int(unbiased), keepdim=True)
    return torch.where(std > SILENCE_STD, (log_mel - mean) / (std + 1e-8), 0.0)


def reflect_pad(x: Tensor, before: int, after: int) -> Tensor:
    """Extend (B, n, ...) along dimension 1 by repeated reflection at both ends."""
    n = x.shape[1]
    return torch.cat([x[:, reflect_index(n, -before, 0, x.device)], x, x[:, reflect_index(n, n, n + after, x.device)]], dim=1)


def reflect_index(length: int, start: int, stop: int, device: torch.device | None = None) -> Tensor:
    """Indices start..stop-1 bounced back and forth between 0 and length-1: reflection of any depth,
    (stop - start,) int64.
    """
    period: Any = torch.sym_max(2 * (length - 1), 1)  # a length may be a symbol, when the model is exported
    index = torch.arange(start, stop, device=device)
    folded = index % index.new_full((), period)
    return torch.minimum(folded, period - folded)
