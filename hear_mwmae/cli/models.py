"""Commands on models: `info`, `convert`, `push`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import Command, out_option


@click.command(cls=Command, short_help="Describe a model.")
@click.argument("model", default="")
def info(model: str) -> None:
    """Describe MODEL: kind, sizes, windows, front-end, and shape of its embeddings.

    MODEL is a registered name, a directory, a .safetensors file, org/repo[@revision] on the Hugging
    Face Hub, or a checkpoint of the authors' code. The default is the embedded model.
    """
    from ..checkpoint import read_model
    from ..config import describe_windows

    config, state = read_model(model)
    count = {part: sum(v.numel() for k, v in state.items() if k.startswith(part)) for part in ("encoder.", "decoder.")}
    encoder, decoder, frontend = config.encoder, config.decoder, config.frontend
    dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in state.values()})
    step = 1000 * config.patch_size[0] * frontend.hop_length / frontend.sample_rate
    rows = {
        "model": model or "embedded",
        "kind": {"mwmae": "MW-MAE (multi-window)", "mae": "MAE (global attention)"}[config.kind],
        "encoder": f"width {encoder.width}, {encoder.depth} blocks, {encoder.heads} heads, {count['encoder.']:,} parameters",
        "decoder": f"width {decoder.width}, {decoder.depth} blocks, {decoder.heads} heads, {count['decoder.']:,} parameters",
        "decoder windows": describe_windows(decoder.window_sizes),
        "weights": ", ".join(dtypes),
        "input": f"{frontend.sample_rate} Hz mono, log-mel {config.input_frames} frames x {frontend.n_mels} bands per chunk",
        "patches": f"{config.patch_size[0]} frames x {config.patch_size[1]} bands, {config.num_tokens} tokens",
        "scene embedding": f"{config.scene_embedding_size} numbers per clip, {config.pooling} over time",
        "timestamp embedding": f"{config.embedding_size} numbers every {step:g} ms",
    }
    for name, value in rows.items():
        click.echo(f"{name:20} {value}")


@click.command(cls=Command, short_help="Convert a checkpoint of the authors' code.")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("destination", type=click.Path(file_okay=False, path_type=Path))
@click.option("--encoder-heads", type=click.IntRange(1), help="Attention heads, for a width that the paper does not use.")
def convert(source: Path, destination: Path, encoder_heads: int | None) -> None:
    """Convert a checkpoint of the authors' JAX code to config.json + model.safetensors in
    DESTINATION.

    SOURCE is a flax checkpoint file, or a directory with a file "checkpoint" or "checkpoint_STEP".
    The configuration is inferred from the weights, except the number of encoder heads: for the
    paper's sizes it follows from the width.
    """
    from ..checkpoint import save_model
    from ..official import describe_heads, load_official

    config, state = load_official(source, encoder_heads)
    save_model(destination, config, state)
    click.echo(describe_heads(config, encoder_heads))
    click.echo(f"{sum(value.numel() for value in state.values()):,} parameters -> {destination}")


@click.command(cls=Command, short_help="Upload a model with its card to the Hugging Face Hub.")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("repo", metavar="ORG/REPO")
@click.option("--private", is_flag=True, help="Create the repository as private, if it does not exist.")
@click.option("--dry-run", is_flag=True, help="Write the files to the new folder OUT instead of uploading them.")
@out_option("Folder of --dry-run.", folder=True, required=False)
def push(directory: Path, repo: str, private: bool, dry_run: bool, out: Path | None) -> None:
    """Push the model in DIRECTORY to the Hugging Face Hub, with a generated model card.

    Uploads config.json, model.safetensors, loss.png if it exists, and a README.md generated from
    the configuration and, if it exists, from card.json (licence, data, results, ...). The token
    comes from HF_TOKEN or `hf auth login`.
    """
    from .. import hub
    from ..card import model_card
    from ..mae import MaskedAutoencoder

    if dry_run != (out is not None):
        raise click.UsageError("--dry-run and -o/--out are given together")
    card = model_card(directory, repo)
    MaskedAutoencoder.from_pretrained(str(directory))  # an uploaded model must load
    click.echo(hub.push(directory, repo, card, private, out))
