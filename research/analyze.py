"""`hear-mwmae analyze` and `hear-mwmae reconstruct`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import HearMwmaeError
from ..extras import needs
from .options import DEVICE, MODEL, Command, models_option, named_models, out_option


@click.command(cls=Command, short_help="Attention distance and entropy, PWCCA and CKA, as tables and figures.")
@click.argument("audio", nargs=-1, required=True, metavar="FILES_OR_FOLDERS...")
@out_option("Folder to write.", folder=True)
@models_option()
@click.option("--untrained/--no-untrained", default=True, show_default=True, help="Also measure random weights of each kind.")
@click.option(
    "--clips",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Clips per folder, drawn at random; 0: all.",
)
@click.option("--tokens", type=click.IntRange(1), default=10_000, show_default=True, help="Samples for PWCCA and CKA.")
@click.option("--draws", type=click.IntRange(1), default=500, show_default=True, help="Bootstrap draws over clips.")
@click.option("--seed", default=0, show_default=True, help="Seed of clips, crops, masks, tokens, draws and untrained weights.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Clips at a time.")
@DEVICE
def analyze(
    audio: tuple[str, ...],
    out: Path,
    models: tuple[str, ...],
    untrained: bool,
    clips: int,
    tokens: int,
    draws: int,
    seed: int,
    batch_size: int,
    device: str,
) -> None:
    """Measure the attention of heads, and the similarity of their outputs, on audio.

    Measures attention distance and entropy of every head, PWCCA and linear CKA between all heads,
    and the similarity of heads with the same window across blocks. Writes figures (.png, .svg),
    their tables (.csv) and summary.md to OUT.

    \b
    hear-mwmae analyze sounds/ speech/ -o analysis \\
        --model MW-MAE=mwmae-tiny --model MAE=runs/mae/model
    """
    report, clip_files = _load("report"), _load("clips")
    _load("figures")
    if seed < 0:
        raise HearMwmaeError(f"seed must be 0 or above, got {seed}")
    sources = named_models(models)
    files = clip_files.choose_files(audio, clips, seed)
    settings = report.Settings(tokens, draws, seed, batch_size, untrained, device)
    measured = report.analyze(sources, files, out, settings, progress=True)
    click.echo(f"{len(measured)} models, {len(files)} clips -> {out}; see {out / 'summary.md'}")


@click.command(cls=Command, short_help="Masked input, reconstruction, target and error as a picture.")
@click.argument("audio", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@out_option("Picture, .png, .svg or .pdf.", folder=False, required=False)
@MODEL
@click.option("--mask-ratio", type=float, help="Share of hidden patches. The default is the share of pretraining.")
@click.option("--seed", default=0, show_default=True, help="Seed of the mask.")
@click.option("--audio", "listen", is_flag=True, help="Also write estimated sound of the reconstruction and of its target.")
def reconstruct(audio: Path, out: Path | None, model: str, mask_ratio: float | None, seed: int, listen: bool) -> None:
    """Hide patches of AUDIO's spectrogram, and reconstruct them from the others.

    Writes a picture of the first ten seconds (masked input, reconstruction, target and error). A
    .npy file beside it holds the complete reconstruction: log-mel, (frames, bands) float32, natural
    logarithm of power. Visible patches are unchanged.

    --audio writes .wav files. They are estimates, because phases and the spectrum within a mel band
    are unknown: Griffin-Lim on the pseudo-inverse of the mel filterbank. NAME-target.wav shows the
    error of the estimate.
    """
    run = _load("reconstruct")
    _load("figures")
    picture = out or Path(f"{audio.stem}-reconstruction.png")
    run.check_output(audio, picture, listen)
    result = run.reconstruct(audio, model, mask_ratio, seed)
    for file in run.write(result, picture, listen):
        click.echo(file)
    click.echo(f"mean squared error on hidden patches: {result.loss:.3f} (of the log-mel normalised over the clip)")


def _load(module: str) -> Any:
    """Import a module of the analysis, whose extra packages may be missing."""
    from importlib import import_module

    try:
        return import_module(f"hear_mwmae.analysis.{module}")
    except ModuleNotFoundError as error:
        raise needs("the analysis", error.name, "analysis") from error
