"""Commands on models: `info`, `convert`, `push`."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import click

from .options import Command


@click.command(cls=Command, short_help="Describe a model.")
@click.argument("model", default="")
def info(model: str) -> None:
    """Describe MODEL: kind, sizes, windows, front-end, and shape of its embeddings.

    MODEL is a registered name, a folder, a .safetensors file, org/repo[@revision] on the Hugging
    Face Hub, or a checkpoint of the authors' code. The default is the embedded model.
    """
    import torch

    from ..encoder import Encoder
    from ..mae import describe
    from ..strict import load_strictly
    from ..weights import ENCODER_PREFIX, read_model

    config, state = read_model(model, ENCODER_PREFIX)
    with torch.device("meta"):
        encoder = Encoder(config)
    load_strictly(encoder, state, model or "the embedded model")
    dtypes = {str(value.dtype).removeprefix("torch.") for value in state.values()}
    rate = config.frontend.sample_rate
    step = 1000 * config.patch_size[0] * config.frontend.hop_length / rate
    rows = {
        "model": model or "embedded",
        "kind": "MW-MAE (multi-window)" if config.kind == "mwmae" else "MAE (global attention)",
        "sample rate": f"{rate} Hz, mono",
        **describe(config),
        "stored as": ", ".join(sorted(dtypes)),
        "scene embedding": f"{config.scene_embedding_size} numbers per clip, {config.pooling} over "
        "time",
        "timestamp embedding": f"{config.embedding_size} numbers every {step:g} ms",
    }
    for name, value in rows.items():
        click.echo(f"{name:20} {value}")


@click.command(cls=Command, short_help="Convert a checkpoint of the authors' code.")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("destination", type=click.Path(file_okay=False, path_type=Path))
@click.option("--encoder-heads", type=click.IntRange(1), help="For a width of no paper's model.")
def convert(source: Path, destination: Path, encoder_heads: int | None) -> None:
    """Convert a checkpoint of the authors' JAX code to config.json + model.safetensors in
    DESTINATION.

    SOURCE is a flax checkpoint file, or a directory with a file "checkpoint" or "checkpoint_STEP".
    The configuration is inferred from the weights, which do not show the heads of plain and of
    global attention: these are the paper's.
    """
    import torch

    from ..mae import MaskedAutoencoder
    from ..official import load_official
    from ..strict import load_strictly
    from ..weights import save_model

    config, state = load_official(source, encoder_heads)
    with torch.device("meta"):
        model = MaskedAutoencoder(config)
    load_strictly(model, state, str(source))
    save_model(destination, config, state)
    heads = f"{config.encoder.heads} heads in the encoder, {config.decoder.heads} in the decoder"
    size = sum(value.numel() for value in state.values())
    click.echo(f"{size:,} weights, {heads} -> {destination}")


@click.command(cls=Command, short_help="Upload a model with its card to the Hugging Face Hub.")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("repo", metavar="ORG/REPO")
@click.option(
    "--private", is_flag=True, help="Create the repository, if there is none, as private."
)
def push(directory: Path, repo: str, private: bool) -> None:
    """Push the model in DIRECTORY to the Hugging Face Hub.

    Uploads config.json, model.safetensors, and README.md, loss.png and audio.csv if they exist.
    Without a README.md, one is made from the configuration. The token comes from HF_TOKEN or
    `hf auth login`.
    """
    from ..card import model_card
    from ..hub import CARD_NAME, UPLOADED, upload
    from ..weights import load_embedder

    # An uploaded model must load; a relative path could be a registered name.
    model = load_embedder(directory.absolute())
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in UPLOADED:
            if (directory / name).is_file():
                (folder / name).symlink_to((directory / name).absolute())
        if not (folder / CARD_NAME).exists():
            (folder / CARD_NAME).write_text(model_card(model.config, repo), encoding="utf-8")
        click.echo(upload(folder, repo, private or None))
