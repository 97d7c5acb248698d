"""Waveform -> per-clip normalised log-mel spectrogram, of one or several windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from .config import FrontendConfig

#: A clip whose log-mel deviates by less than this is silence or a constant: only rounding errors of
#: the transform remain. For windows of up to 400 samples; it grows with the square of the length.
SILENCE_STD = 1e-4
#: Samples per transform: bounds the memory for long and for many clips, and does not change the
#: result.
BLOCK_SAMPLES = 1 << 20


class LogMelFrontend(nn.Module):
    """(B, samples) float waveform in [-1, 1] -> (B, frames, channels * n_mels) float32.

    There are samples // hop_length + 1 frames, and one channel for each window: the bands of the
    windows stand side by side in a frame. Always computed in float32.
    """

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.config = config
        self.windows = nn.ModuleList(
            LogMel(config, win_length) for win_length in config.win_lengths
        )

    @property
    def device(self) -> torch.device:
        """Where the features are computed."""
        return self.log_mels[0].window.device

    @property
    def log_mels(self) -> list[LogMel]:
        """The part of each window."""
        return cast("list[LogMel]", list(self.windows))

    def forward(self, waveform: Tensor, unbiased: bool = True) -> Tensor:
        """`log_mel`, each clip and channel normalised to zero mean and unit deviation.

        Args:
            unbiased: the authors use the unbiased deviation at inference and the population
                deviation in pretraining.
        """
        spectrogram = self.log_mel(waveform)
        for window, channel in self._channels(spectrogram):
            normalise(channel, unbiased, window.silence_std)
        return spectrogram

    def log_mel(self, waveform: Tensor) -> Tensor:
        """(B, samples) -> (B, frames, channels * n_mels): log(power mel spectrogram +
        log_offset).
        """
        # One for all channels, because that of an hour takes 115 MB for each.
        spectrogram = torch.empty(
            len(waveform),
            self.config.frames(waveform.shape[1]),
            self.config.bands,
            dtype=torch.float32,
            device=waveform.device,
        )
        for window, channel in self._channels(spectrogram):
            window(waveform, channel)
        return spectrogram

    def _channels(self, spectrogram: Tensor) -> Iterator[tuple[LogMel, Tensor]]:
        """Each window, with its bands of a spectrogram."""
        channels = spectrogram.split(self.config.n_mels, dim=2)
        return zip(self.log_mels, channels, strict=True)


class LogMel(nn.Module):
    """(B, samples) -> (B, frames, n_mels): the logarithm of the mel spectrogram of one window,
    written into the second argument.

    Frames are centred on multiples of the hop. Both ends are extended by reflection, repeatedly if
    the clip is shorter than half a window.
    """

    window: Tensor  #: (win_length,)
    filterbank: Tensor  #: (win_length // 2 + 1, n_mels)

    def __init__(self, config: FrontendConfig, win_length: int) -> None:
        super().__init__()
        self.config = config
        self.win_length = win_length
        self.silence_std = SILENCE_STD * max(win_length / 400, 1) ** 2
        window = torch.hann_window(win_length, dtype=torch.float32, device="cpu")
        self.register_buffer("window", window, persistent=False)
        filterbank = mel_filterbank(config, win_length)
        self.register_buffer("filterbank", filterbank, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LogMel:
        """Follow the model to its device, but stay float32: half-precision features would be wrong
        without an error.
        """
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)

    def forward(self, waveform: Tensor, out: Tensor) -> None:
        waveform = waveform.float()
        frames = out.shape[1]
        block = max(BLOCK_SAMPLES // (self.win_length * len(waveform)), 1)
        for first in range(0, frames, block):
            last = min(first + block, frames)
            out[:, first:last] = self._frames(waveform, first, last)

    def _frames(self, waveform: Tensor, first: int, last: int) -> Tensor:
        """Frames first..last-1."""
        hop, length = self.config.hop_length, self.win_length
        start = first * hop - length // 2
        stop = start + (last - 1 - first) * hop + length
        piece = waveform[:, reflect_index(waveform.shape[1], start, stop, waveform.device)]
        spectrum = torch.stft(
            piece, length, hop, length, self.window, center=False, return_complex=True
        )
        # A quarter of the time of spectrum.abs().square(), which takes a hypotenuse of each value.
        power = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag).transpose(1, 2)
        # An ambient autocast would round the product to half precision.
        with torch.autocast(power.device.type, enabled=False):
            return torch.log(power @ self.filterbank + self.config.log_offset)


def mel_filterbank(config: FrontendConfig, win_length: int) -> Tensor:
    """Triangular filters of unit height, equally wide on HTK's mel scale: (win_length // 2 + 1,
    n_mels) float32.

    HTK's scale is mel = 2595 log10(1 + Hz / 700) (S. Young et al., The HTK Book). All in float32:
    the models were trained on filters with its roundings, which differ from exact filters by 8e-6.
    """
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (config.f_min, config.f_max))

    def linspace(first: float, last: float, count: int) -> Tensor:
        return torch.linspace(first, last, count, dtype=torch.float32, device="cpu")

    edges = 700 * (10 ** (linspace(low, high, config.n_mels + 2) / 2595) - 1)
    bins = linspace(0, config.sample_rate / 2, win_length // 2 + 1)[:, None]
    widths = edges.diff()
    rising = (bins - edges[:-2]) / widths[:-1]
    falling = (edges[2:] - bins) / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0)


def normalise(log_mel: Tensor, unbiased: bool, silence_std: float) -> Tensor:
    """Zero mean and unit deviation over each clip, (B, frames, n_mels), in place; silence becomes
    zeros.
    """
    std, mean = torch.std_mean(log_mel, dim=(1, 2), correction=int(unbiased), keepdim=True)
    normalised = log_mel.sub_(mean).div_(std + 1e-8)
    return normalised.masked_fill_(std <= silence_std, 0.0)  # NaN stays NaN


def reflect_index(length: int, start: int, stop: int, device: torch.device | str = "cpu") -> Tensor:
    """Indices start..stop-1 bounced back and forth between 0 and length-1: reflection of any depth,
    (stop - start,) int64.
    """
    # A length may be a symbol, when the model is exported.
    period: Any = torch.sym_max(2 * (length - 1), 1)
    index = torch.arange(start, stop, device=device)
    folded = index % index.new_full((), period)
    return torch.minimum(folded, period - folded)
