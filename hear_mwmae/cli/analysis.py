"""`hear-mwmae analyze` and `hear-mwmae reconstruct`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..commands import DEVICE, MODEL, Command, models_option, named_models, out_option
from ..errors import HearMwmaeError
from ..extras import needs


@click.command(cls=Command, short_help="Attention distance and entropy, PWCCA and CKA, as tables and figures.")
@click.argument("audio", nargs=-1, required=True, metavar="FILES_OR_FOLDERS...")
@out_option("Folder to write.", folder=True)
@models_option()
@click.option("--untrained/--no-untrained", default=True, show_default=True, help="Measure random weights of each kind beside.")
@click.option(
    "--clips",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="At most so many of each folder, drawn at random; 0: all.",
)
@click.option("--tokens", type=click.IntRange(1), default=10_000, show_default=True, help="Samples for PWCCA and CKA.")
@click.option("--draws", type=click.IntRange(1), default=500, show_default=True, help="Of the bootstraps over clips.")
@click.option("--seed", default=0, show_default=True, help="Of clips, crops, masks, tokens, draws and untrained weights.")
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
    """Measure what the heads of models attend to, and how similar their outputs are, over real audio.

    Attention distance and entropy of every head, PWCCA and linear CKA between all heads, and whether heads with the same window
    are similar across blocks. OUT receives figures (.png, .svg), a table behind each (.csv) and summary.md.

    \b
    hear-mwmae analyze sounds/ speech/ -o analysis --model MW-MAE=mwmae-tiny --model MAE=runs/mae/model
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
@click.option("--mask-ratio", type=float, help="Part of the patches that is hidden; that of pretraining when not given.")
@click.option("--seed", default=0, show_default=True, help="Of the mask.")
@click.option(
    "--audio", "listen", is_flag=True, help="Also write estimates of the sound, of the reconstruction and of its target."
)
def reconstruct(audio: Path, out: Path | None, model: str, mask_ratio: float | None, seed: int, listen: bool) -> None:
    """Hide patches of AUDIO's spectrogram, and show what the model makes of the rest.

    Writes a picture of masked input, reconstruction, target and error (the first ten seconds), and beside it the whole
    reconstruction as .npy: log-mel, (frames, bands) float32, natural logarithm of power, the visible patches as they were.

    With --audio, .wav files: phases and the spectrum within a mel band are unknown, so they are an estimate (Griffin-Lim on the
    pseudo-inverse of the mel filterbank), and NAME-target.wav says how much of the damage is due to the estimate.
    """
    run = _load("reconstruct")
    _load("figures")
    picture = out or Path(f"{audio.stem}-reconstruction.png")
    result = run.reconstruct(audio, model, mask_ratio, seed)
    for file in run.write(result, picture, listen):
        click.echo(file)
    click.echo(f"mean squared error on hidden patches: {result.loss:.3f} (of the log-mel normalised over the clip)")


def _load(module: str) -> Any:
    """A module of the analysis; what it needs beyond embedding may be missing."""
    from importlib import import_module

    try:
        return import_module(f"hear_mwmae.analysis.{module}")
    except ModuleNotFoundError as error:
        raise needs("the analysis", error.name, "analysis") from error
