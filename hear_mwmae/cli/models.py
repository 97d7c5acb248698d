"""Commands on models: `info`, `convert`, `push`."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from ..errors import HearMwmaeError
from .options import Command, out_option


@click.command(cls=Command, short_help="Describe a model.")
@click.argument("model", default="")
def info(model: str) -> None:
    """Describe MODEL: kind, sizes, windows, front-end, and shape of its embeddings.

    MODEL is a registered name, a folder, a .safetensors file, org/repo[@revision] on the Hugging
    Face Hub, or a checkpoint of the authors' code. The default is the embedded model.
    """
    import torch

    from ..config import describe_windows
    from ..mae import MaskedAutoencoder
    from ..strict import load_strictly
    from ..weights import ENCODER_PREFIX, read_model

    config, state = read_model(model, ENCODER_PREFIX)
    with torch.device("meta"):
        autoencoder = MaskedAutoencoder(config)  # whose decoder the file may lack
    load_strictly(autoencoder.encoder, state, model or "the embedded model")
    dtypes = {str(value.dtype).removeprefix("torch.") for value in state.values()}
    frontend, (frames, bands) = config.frontend, config.patch_size
    windows = " and ".join(map(str, frontend.win_lengths))
    step = 1000 * frames * frontend.hop_length / frontend.sample_rate
    rows = {
        "model": model or "embedded",
        "kind": "MW-MAE (multi-window)" if config.kind == "mwmae" else "MAE (global attention)",
        "sample rate": f"{frontend.sample_rate} Hz, mono",
        "input": f"log-mel of {windows} samples, {config.input_frames} frames x "
        f"{frontend.n_mels} bands per chunk",
        "patches": f"{frames} frames x {bands} bands, {config.num_tokens} tokens",
    }
    for name, module in autoencoder.named_children():
        part = getattr(config, name)
        size = sum(weight.numel() for weight in module.parameters())
        rows[name] = (
            f"width {part.width}, {part.depth} blocks, {part.heads} heads, {size:,} weights"
        )
    rows |= {
        "decoder windows": describe_windows(config.decoder.window_sizes),
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
@click.option("--dry-run", is_flag=True, help="Write the files to the new folder OUT instead.")
@out_option("Folder of --dry-run.", folder=True, required=False)
def push(directory: Path, repo: str, private: bool, dry_run: bool, out: Path | None) -> None:
    """Push the model in DIRECTORY to the Hugging Face Hub, with a generated model card.

    Uploads config.json, model.safetensors, loss.png and audio.csv if they exist, and a README.md
    generated from the configuration and, if it exists, from card.json (license, data, results,
    ...). The token comes from HF_TOKEN or `hf auth login`.
    """
    from ..card import model_card
    from ..hub import CARD_NAME, CONFIG_NAME, OF_CARD, WEIGHTS_NAME, upload
    from ..weights import load_embedder

    if dry_run != (out is not None):
        raise click.UsageError("--dry-run and -o/--out are given together")
    if out and out.exists() and any(out.iterdir()):
        raise HearMwmaeError(f"{out} is not an empty folder")
    # An uploaded model must load; a relative path could be a registered name.
    load_embedder(directory.absolute())
    card = model_card(directory, repo)
    with TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        names = (CONFIG_NAME, WEIGHTS_NAME, *OF_CARD)
        files = [directory / name for name in names if (directory / name).is_file()]
        for file in files:
            if out:
                shutil.copy(file, folder)
            else:
                (folder / file.name).symlink_to(file.absolute())
        (folder / CARD_NAME).write_text(card, encoding="utf-8")
        where = out or upload(folder, repo, private or None)
    click.echo(f"{', '.join(file.name for file in files)}, {CARD_NAME} -> {where}")
