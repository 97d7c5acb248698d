"""Hides patches of a file's spectrogram, and reconstructs them from the others.

    python -m research.reconstruct talk.wav [-o talk.png]

Writes a picture of the first ten seconds (masked input, reconstruction, target, error; of the first
window, if the model has several). A .npy file beside it holds the whole reconstruction: log-mel,
(frames, bands) float32, natural logarithm of power. Visible patches are unchanged.
"""

from pathlib import Path
from typing import NamedTuple

import click
import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from hear_mwmae.audio import read_audio
from hear_mwmae.cli.options import MODEL, Command, out_option
from hear_mwmae.config import FrontendConfig
from hear_mwmae.frontend import LogMelFrontend, reflect_index
from hear_mwmae.mae import MaskedAutoencoder, reconstruction

from .analysis.figures import STYLE, save

#: A picture of more would show nothing.
PICTURED_SECONDS = 10.0


class Reconstruction(NamedTuple):
    """Log-mel spectrograms of one file, (frames, bands) float32, natural logarithm of power."""

    masked: np.ndarray  #: NaN where hidden
    predicted: np.ndarray  #: predictions where hidden, the input elsewhere
    target: np.ndarray
    #: mean squared error on hidden patches of the normalised log-mel, as in pretraining
    loss: float


@torch.no_grad()
def reconstruct(model: MaskedAutoencoder, path: Path, seed: int = 0) -> Reconstruction:
    """Cut the file into the model's inputs, hide patches of each, and predict these."""
    config = model.config
    frontend = LogMelFrontend(config.frontend)
    audio = read_audio(path, config.frontend.sample_rate)[None]
    log_mel = frontend.log_mel(audio)[0]
    features = frontend(audio)[0]
    frames, size = len(features), config.input_frames
    whole = reflect_index(frames, 0, frames + -frames % size)
    chunks = features[whole].reshape(-1, size, features.shape[1])
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(len(chunks), config.num_tokens, generator=generator)
    batches = zip(chunks.split(16), noise.split(16), strict=True)
    parts = zip(*(reconstruction(config, model, *batch) for batch in batches), strict=True)
    masked, predicted, target = (torch.cat(part).flatten(0, 1) for part in parts)
    hidden = masked.isnan()
    loss = (predicted - target).square()[hidden].mean()
    # Back to the logarithm of power: each window was normalised by itself.
    windows = log_mel.unflatten(1, (-1, config.frontend.n_mels))
    std, mean = torch.std_mean(windows, dim=(0, 2), keepdim=True)
    parts = [
        (part[:frames].unflatten(1, windows.shape[1:]) * std + mean).flatten(1).numpy()
        for part in (masked, predicted)
    ]
    return Reconstruction(parts[0], parts[1], log_mel.numpy(), float(loss))


@matplotlib.rc_context(STYLE)
def draw(result: Reconstruction, config: FrontendConfig) -> Figure:
    """The first ten seconds: masked input, reconstruction, target, and error."""
    hop = config.hop_length / config.sample_rate
    shown = np.s_[: round(PICTURED_SECONDS / hop), : config.n_mels]
    masked, predicted, target = (part[shown] for part in result[:3])
    error = np.where(np.isnan(masked), predicted - target, np.nan)
    most = np.nanpercentile(np.abs(error), 99) or 1.0  # a few bins that are far off pale the rest
    low, high = target.min(), target.max()
    panels = {"masked input": masked, "reconstruction": predicted, "target": target}
    figure = Figure(figsize=(7.2, 5.6), layout="constrained")
    axes = figure.subplots(4, 1, sharex=True)
    extent = (0, len(target) * hop, 0, config.n_mels)
    for axis, (title, panel) in zip(axes[:3], panels.items(), strict=True):
        place = {"origin": "lower", "aspect": "auto", "extent": extent}
        image = axis.imshow(panel.T, vmin=low, vmax=high, cmap="viridis", **place)
        axis.set_title(title, loc="left")
    figure.colorbar(image, ax=axes[:3], label="ln(power)", pad=0.01)
    image = axes[3].imshow(error.T, vmin=-most, vmax=most, cmap="PuOr_r", **place)
    axes[3].set_title("error (reconstruction - target)", loc="left")
    figure.colorbar(image, ax=axes[3], label="difference", extend="both", pad=0.01)
    for axis in axes:
        axis.set_facecolor("0.85")
        axis.set_ylabel("mel band")
    axes[3].set_xlabel("seconds")
    return figure


@click.command(cls=Command, help=__doc__)
@click.argument("audio", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@out_option("Picture, .png. The default is AUDIO-reconstruction.png.", folder=False, required=False)
@MODEL
@click.option("--mask-ratio", type=float, help="Share of hidden patches, of pretraining if unset.")
@click.option("--seed", default=0, show_default=True, help="Seed of the mask.")
def main(audio: Path, out: Path | None, model: str, mask_ratio: float | None, seed: int) -> None:
    autoencoder = MaskedAutoencoder.from_pretrained(model, mask_ratio).eval()
    result = reconstruct(autoencoder, audio, seed)
    picture = out or Path(f"{audio.stem}-reconstruction.png")
    save(draw(result, autoencoder.config.frontend), picture)
    np.save(picture.with_suffix(".npy"), result.predicted)
    click.echo(f"{picture}: mean squared error on hidden patches {result.loss:.3f}, normalised")


if __name__ == "__main__":
    main()
