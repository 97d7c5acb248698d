"""Hides patches of a file's spectrogram, and reconstructs them from the others.

    python -m research.reconstruct talk.wav [-o talk.png]

Writes a picture of the first ten seconds: masked input, reconstruction, target and error; of the
first window, if the model has several. Values are the normalised log-mel, as in pretraining.
"""

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
PICTURED_SECONDS = 10.0


@torch.no_grad()
def reconstruct(model: MaskedAutoencoder, path: Path, seed: int = 0) -> list[np.ndarray]:
    """Cut the file into the model's inputs, hide patches of each, and predict these.

    Returns masked input (NaN where hidden), reconstruction (the input elsewhere) and target, each
    (frames, bands) float32.
    """
    config = model.config
    audio = read_audio(path, config.frontend.sample_rate)[None]
    features = LogMelFrontend(config.frontend)(audio)[0]
    frames, size = len(features), config.input_frames
    whole = reflect_index(frames, 0, frames + -frames % size)
    chunks = features[whole].reshape(-1, size, features.shape[1])
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(len(chunks), config.num_tokens, generator=generator)
    batches = zip(chunks.split(16), noise.split(16), strict=True)
    parts = zip(*(reconstruct_batch(model, *batch) for batch in batches), strict=True)
    return [torch.cat(part).flatten(0, 1)[:frames].numpy() for part in parts]


def reconstruct_batch(
    model: MaskedAutoencoder, clips: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Masked input (NaN where masked), reconstruction (predicted where masked) and target.

    Each is (B, frames, mels).
    """
    config = model.config
    out = model(clips, noise)
    channels = config.frontend.channels
    patches, masked = patchify(clips, config.patch_size, channels), out.mask[:, :, None].bool()
    pred = out.pred.float()
    if config.norm_pix_loss:  # predictions are of standardised patches
        var, mean = torch.var_mean(patches, dim=-1, correction=0, keepdim=True)
        pred = pred * (var + 1e-6).sqrt() + mean
    hidden = patches.masked_fill(masked, float("nan"))
    whole = torch.where(masked, pred, patches)
    hidden, whole, patches = (
        unpatchify(part, config.patch_size, config.grid_size, channels)
        for part in (hidden, whole, patches)
    )
    return hidden, whole, patches


@matplotlib.rc_context(STYLE)
def draw(parts: list[np.ndarray], config: FrontendConfig) -> Figure:
    """The first ten seconds of what `reconstruct` returns, and the error."""
    hop = config.hop_length / config.sample_rate
    masked, predicted, target = (
        part[: round(PICTURED_SECONDS / hop), : config.n_mels] for part in parts
    )
    error = np.where(np.isnan(masked), predicted - target, np.nan)
    most = np.nanpercentile(np.abs(error), 99) or 1.0  # a few bins that are far off pale the rest
    panels = {"masked input": masked, "reconstruction": predicted, "target": target}
    figure = Figure(figsize=(7.2, 5.6), layout="constrained")
    axes = figure.subplots(4, 1, sharex=True)
    extent = (0, len(target) * hop, 0, config.n_mels)
    place = {"origin": "lower", "aspect": "auto", "extent": extent}
    for axis, (title, panel) in zip(axes[:3], panels.items(), strict=True):
        image = axis.imshow(panel.T, vmin=target.min(), vmax=target.max(), **place)
        axis.set_title(title, loc="left")
    figure.colorbar(image, ax=axes[:3], label="normalised log-mel", pad=0.01)
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
    parts = reconstruct(autoencoder, audio, seed)
    picture = out or Path(f"{audio.stem}-reconstruction.png")
    save(draw(parts, autoencoder.config.frontend), picture)
    masked, predicted, target = parts
    loss = np.square(predicted - target)[np.isnan(masked)].mean()
    click.echo(f"{picture}: mean squared error on hidden patches {loss:.3f}, normalised")


if __name__ == "__main__":
    main()
