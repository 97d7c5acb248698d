"""Commands on models: `info`, `convert`, `push`, `export`, `probe`."""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from ..errors import HearMwmaeError, needs_extra
from .options import (
    DEVICE,
    POOLING,
    TASKS,
    Command,
    models_option,
    named_models,
    out_option,
)

if TYPE_CHECKING:
    from ..probe import Classifier

#: Largest difference between an exported file and its model.
TOLERANCE = 1e-4
MORE_MODELS = (
    " Also 'untrained' (the architecture of the first trained model, with random weights) and "
    "'log-mel' (statistics of its input)."
)


@click.command(cls=Command, short_help="Describe a model.")
@click.argument("model", default="")
def info(model: str) -> None:
    """Describe MODEL: kind, sizes, windows, front-end, and shape of its embeddings.

    MODEL is a registered name, a folder, a .safetensors file, org/repo[@revision] on the Hugging
    Face Hub, or a checkpoint of the authors' code. The default is the embedded model.
    """
    from ..mae import describe
    from ..weights import DEFAULT_MODEL, load_embedder

    config = load_embedder(model).config
    rate = config.frontend.sample_rate
    step = 1000 * config.patch_size[0] * config.frontend.hop_length / rate
    rows = {
        "model": model or f"{DEFAULT_MODEL}, the embedded model",
        "sample rate": f"{rate} Hz, mono",
        **describe(config),
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
    from ..weights import check_no_model, load_strictly, save_model

    check_no_model(destination)
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


@click.command(cls=Command, short_help="Export a model as an .onnx file.")
@click.argument("model", default="")
@out_option("File to write, .onnx.", folder=False)
@POOLING
def export(model: str, out: Path, pooling: str | None) -> None:
    """Export MODEL, waveform to scene and timestamp embeddings, as one file for onnxruntime and
    other readers of ONNX.

    It takes float32 audio (clips, samples) at 16 kHz, of any number and length, and computes
    scene_embeddings, timestamp_embeddings and timestamps. MODEL defaults to the embedded model. The
    command compares the file with the model.
    """
    from ..export import export as export_model
    from ..export import largest_difference
    from ..weights import load_embedder

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it names packages that are not used
    embedder = load_embedder(model, pooling=pooling)
    export_model(embedder, out)
    size = f"{out}: {out.stat().st_size / 1e6:.1f} MB"
    try:
        difference = largest_difference(embedder, out)
    except ModuleNotFoundError as error:
        click.echo(f"{size}; not compared with the model, which needs {error.name}")
        return
    if not difference <= TOLERANCE:
        raise HearMwmaeError(
            f"{size}, but it differs from the model by {difference:.1e}, more than {TOLERANCE:.0e}"
        )
    click.echo(f"{size}; differs from the model by at most {difference:.1e}")


@click.command(cls=Command, short_help="Linear probes of models on HEAR tasks, with intervals.")
@TASKS
@models_option(MORE_MODELS)
@click.option("--baselines", is_flag=True, help="Also the models 'untrained' and 'log-mel'.")
@POOLING
@click.option(
    "--classifier",
    type=click.Choice(["logistic", "ridge"]),
    default="logistic",
    show_default=True,
    help="Of the embeddings.",
)
@DEVICE
@needs_extra("probe", "probing")
def probe(
    tasks: tuple[Path, ...],
    models: tuple[str, ...],
    baselines: bool,
    pooling: str | None,
    classifier: "Classifier",
    device: str,
) -> None:
    """Probe models on HEAR tasks with a linear classifier: seconds to minutes, not HEAR's own
    protocol.

    TASKS are task folders, or folders of them, with one label per clip. A score is accuracy in
    percent, the mean over the tested splits. Each score has a 95 % bootstrap interval over the
    tested clips. All models have one pooling, and are scored on the same draws of the clips, so the
    interval of a difference of means is paired.

    \b
    hear-mwmae probe tasks/ --model run/model --baselines
    """
    from tabulate import tabulate

    from ..baselines import BASELINES, load_models
    from ..probe import read_tasks, score_models, table

    sources = named_models(models)
    if baselines:
        for name in BASELINES:
            sources.setdefault(name, name)
    read = read_tasks(tasks)
    probed, pooling = load_models(sources, pooling, device)
    rows = table(read, probed, score_models(read, probed, classifier))
    click.echo(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))
    click.echo(
        "\nAccuracy in percent, with 95 % intervals over clips. "
        f"Pooling {pooling}, classifier {classifier}."
    )
