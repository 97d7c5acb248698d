"""`hear-mwmae reconstruct`: reconstructs the hidden patches of an audio file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from ..audio import read_audio
from ..config import FrontendConfig
from ..errors import HearMwmaeError
from ..extras import needs
from ..files import replacing
from ..frontend import LogMelFrontend, normalise, reflect_pad
from ..mae import MaskedAutoencoder, reconstruction

#: Endings of pictures.
PICTURES = (".png", ".svg", ".pdf")
#: A picture of more would show nothing.
PICTURED_SECONDS = 10.0
GRIFFIN_LIM_ITERATIONS = 64


@dataclass(frozen=True)
class Reconstruction:
    """Log-mel spectrograms of one file, (frames, n_mels) float32, natural logarithm of power."""

    masked: np.ndarray  #: NaN where hidden
    predicted: np.ndarray  #: predictions where hidden, the input elsewhere
    target: np.ndarray
    loss: float  #: mean squared error over the hidden patches of the normalised log-mel, the loss of pretraining
    samples: int  #: of the audio, at the model's rate
    frontend: FrontendConfig


@torch.no_grad()
def reconstruct(path: Path, source: str = "", mask_ratio: float | None = None, seed: int = 0) -> Reconstruction:
    """Cut the file into the model's inputs, hide patches of each, and predict these.

    Args:
        source: as for `hear_mwmae.load_model`.
        mask_ratio: share of the patches to hide; the share of pretraining when None.

    Raises:
        HearMwmaeError: the file or the model cannot be read, or the ratio leaves no visible or no
            hidden patches.
    """
    model = MaskedAutoencoder.from_pretrained(source, mask_ratio).eval()
    config, frontend = model.config, LogMelFrontend(model.config.frontend)
    audio = read_audio(path, config.frontend.sample_rate)
    log_mel = frontend.log_mel(audio[None])
    features = normalise(log_mel, unbiased=True)
    std, mean = torch.std_mean(log_mel)
    frames, size = features.shape[1], config.input_frames
    chunks = reflect_pad(features, 0, -frames % size).reshape(-1, size, features.shape[2])
    noise = torch.rand(len(chunks), config.num_tokens, generator=torch.Generator().manual_seed(seed))
    parts = [reconstruction(config, model, *batch) for batch in zip(chunks.split(16), noise.split(16), strict=True)]
    hidden, whole, target = (torch.cat(part).flatten(0, 1) for part in zip(*parts, strict=True))
    loss = (whole - target).square()[hidden.isnan()].mean()  # with the padding, as the model sees it
    masked, predicted = ((part[:frames] * std + mean).numpy() for part in (hidden, whole))
    return Reconstruction(masked, predicted, log_mel[0].numpy(), float(loss), len(audio), config.frontend)


def output_files(picture: Path, listen: bool) -> list[Path]:
    """The files of a reconstruction, in the order of `write`: picture, array, and two sounds."""
    ends = (picture.suffix, ".npy", *((".wav", "-target.wav") if listen else ()))
    return [picture.with_name(picture.stem + end) for end in ends]


def check_output(audio: Path, picture: Path, listen: bool) -> None:
    """HearMwmaeError, before any work, if `write` could not write, or would replace ``audio``."""
    if picture.suffix not in PICTURES:
        raise HearMwmaeError(f"a picture must end in {', '.join(PICTURES)}, got {picture}")
    if audio.resolve() in {file.resolve() for file in output_files(picture, listen)}:
        raise HearMwmaeError(f"cannot write {audio}: it is the input")
    if listen:
        load_griffinlim()


def write(result: Reconstruction, picture: Path, listen: bool) -> list[Path]:
    """The picture, the prediction beside it as .npy, and with ``listen`` two .wav; returns what was
    written.

    Raises HearMwmaeError if torchaudio is missing.
    """
    from .figures import DPI, reconstruction_panels  # only here: reconstructing needs no matplotlib

    hop = result.frontend.hop_length / result.frontend.sample_rate
    shown = slice(0, round(PICTURED_SECONDS / hop))
    panels = [
        (name, panel[shown])
        for name, panel in (
            ("masked input", result.masked),
            ("reconstruction", result.predicted),
            ("target", result.target),
            ("error (reconstruction - target)", np.where(np.isnan(result.masked), result.predicted - result.target, np.nan)),
        )
    ]
    figure = reconstruction_panels(panels, len(panels[0][1]) * hop)
    written = output_files(picture, listen)
    with replacing(picture) as temporary:
        figure.savefig(temporary, format=picture.suffix[1:], dpi=DPI)
    with replacing(written[1]) as temporary, open(temporary, "wb") as stream:
        np.save(stream, result.predicted)
    for path, log_mel in zip(written[2:], (result.predicted, result.target), strict=False):
        sound = estimate_audio(torch.from_numpy(log_mel), result.frontend, result.samples)
        with replacing(path) as temporary:
            soundfile.write(temporary, sound.clamp(-1, 1).numpy(), result.frontend.sample_rate, format="WAV", subtype="PCM_16")
    return written


def load_griffinlim() -> Callable[..., Tensor]:
    """torchaudio's; HearMwmaeError if it is missing, or was built for another torch."""
    try:
        from torchaudio.functional import griffinlim
    except ModuleNotFoundError as error:
        raise needs("an estimate of the sound", error.name, "analysis") from error
    except (ImportError, OSError, RuntimeError) as error:
        raise HearMwmaeError(f"an estimate of the sound needs a torchaudio of this torch: {error}") from error
    return griffinlim


def estimate_audio(log_mel: Tensor, config: FrontendConfig, samples: int) -> Tensor:
    """(frames, n_mels) log-mel -> (samples,) waveform that sounds roughly like it.

    An estimate: the spectrum within a mel band comes from the filterbank's pseudo-inverse, the
    phases are those that the algorithm of Griffin and Lim ("Signal estimation from modified
    short-time Fourier transform", 1984) finds, from a fixed start.
    """
    griffinlim = load_griffinlim()
    frontend = LogMelFrontend(config)
    power = (log_mel.exp() - config.log_offset).clamp(min=0) @ torch.linalg.pinv(frontend.filterbank)
    return griffinlim(
        power.clamp(min=0).T, frontend.window, config.n_fft, config.hop_length, config.win_length, power=2.0,
        n_iter=GRIFFIN_LIM_ITERATIONS, momentum=0.99, length=samples, rand_init=False,
    )  # fmt: skip
