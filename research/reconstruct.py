"""Hides patches of a file's spectrogram, and reconstructs them from the others.

    python -m research.reconstruct talk.wav [-o talk.png]

Writes a picture of the first ten seconds: masked input, reconstruction and target; of the first
window, if the model has several. Values are the normalised log-mel, as in pretraining.
"""

import dataclasses
from pathlib import Path

import click
import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from hear_mwmae.audio import read_audio
from hear_mwmae.cli.options import MODEL, Command, out_option
from hear_mwmae.config import FrontendConfig
from hear_mwmae.frontend import LogMelFrontend, reflect_index
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.patches import patchify, unpatchify

from .analysis.figures import STYLE, save

#: A picture of more would show nothing.
SECONDS = 10


@torch.no_grad()
def reconstruct(model: MaskedAutoencoder, path: Path) -> list[np.ndarray]:
    """Cut the first seconds into the model's inputs, hide patches of each, and predict these.

    Returns masked input (NaN where hidden), reconstruction (the input elsewhere) and target, each
    (frames, bands) float32.
    """
    config = model.config
    sample_rate = config.frontend.sample_rate
    audio = read_audio(path, sample_rate)[: SECONDS * sample_rate]
    features = LogMelFrontend(config.frontend)(audio[None])[0]
    frames, size = len(features), config.input_frames
    whole = reflect_index(frames, 0, frames + -frames % size)
    clips = features[whole].reshape(-1, size, features.shape[1])
    noise = torch.rand(len(clips), config.num_tokens, generator=torch.Generator().manual_seed(0))
    out = model(clips, noise)
    channels = config.frontend.channels
    patches, masked = patchify(clips, config.patch_size, channels), out.mask[:, :, None].bool()
    pred = out.pred.float()
    if config.norm_pix_loss:  # predictions are of standardised patches
        var, mean = torch.var_mean(patches, dim=-1, correction=0, keepdim=True)
        pred = pred * (var + 1e-6).sqrt() + mean
    pictures = []
    for part in (patches.masked_fill(masked, np.nan), torch.where(masked, pred, patches), patches):
        inputs = unpatchify(part, config.patch_size, config.grid_size, channels)
        pictures.append(inputs.flatten(0, 1)[:frames].numpy())
    return pictures


@matplotlib.rc_context(STYLE)
def draw(parts: list[np.ndarray], config: FrontendConfig) -> Figure:
    """What `reconstruct` returns."""
    target = parts[-1]
    seconds = len(target) * config.hop_length / config.sample_rate
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    titles = ("masked input", "reconstruction", "target")
    for axis, title, part in zip(axes, titles, parts, strict=True):
        image = axis.imshow(
            part[:, : config.n_mels].T,
            vmin=target.min(),
            vmax=target.max(),
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, config.n_mels),
        )
        axis.set_title(title, loc="left")
        axis.set_facecolor("0.85")
        axis.set_ylabel("mel band")
    axes[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=axes, label="normalised log-mel", pad=0.01)
    return figure


@click.command(cls=Command, help=__doc__)
@click.argument("audio", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@out_option("Picture, .png. The default is AUDIO-reconstruction.png.", folder=False, required=False)
@MODEL
@click.option("--mask-ratio", type=float, help="Share of hidden patches, of pretraining if unset.")
def main(audio: Path, out: Path | None, model: str, mask_ratio: float | None) -> None:
    pretrained = MaskedAutoencoder.from_pretrained(model)
    ratio = mask_ratio or pretrained.config.mask_ratio
    autoencoder = MaskedAutoencoder(dataclasses.replace(pretrained.config, mask_ratio=ratio)).eval()
    autoencoder.load_state_dict(pretrained.state_dict())
    parts = reconstruct(autoencoder, audio)
    picture = out or Path(f"{audio.stem}-reconstruction.png")
    save(draw(parts, autoencoder.config.frontend), picture)
    masked, predicted, target = parts
    loss = np.square(predicted - target)[np.isnan(masked)].mean()
    click.echo(f"{picture}: mean squared error on hidden patches {loss:.3f}, normalised")


if __name__ == "__main__":
    main()
