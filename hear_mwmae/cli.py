"""The `hear-mwmae` command."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import click
import numpy as np
import torch

from . import hub
from ._version import __version__
from .analysis.commands import analyze, reconstruct
from .audio import find_audio
from .batch import OUTPUT_SUFFIXES, embed_files, write_table
from .card import model_card
from .checkpoint import load_embedder, read_model, save_model
from .commands import Group
from .embedder import DTYPES
from .errors import HearMwmaeError
from .files import check_writable
from .official import load_official

MODEL_HELP = (
    "The embedded model when not given; else a registered name, a directory, a .safetensors file, org/repo[@revision] on the "
    "Hugging Face Hub, or a checkpoint of the authors' code."
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def main() -> None:
    """Audio embeddings from MW-MAE, the Multi-Window Masked Autoencoder.

    \b
    hear-mwmae embed talk.wav                    look at the embedding of one file
    hear-mwmae embed clips/ -o clips.npz         one embedding per file of a folder
    hear-mwmae embed talk.mp3 --timestamps -o talk.parquet     one every 40 ms
    hear-mwmae info                              what the embedded model is
    """


@main.command()
@click.argument("paths", nargs=-1, required=True, metavar="FILES_OR_FOLDERS...")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Table to write, .npz or .parquet.")
@click.option("--timestamps", is_flag=True, help="An embedding for every 40 ms instead of one per file.")
@click.option("--model", default="", metavar="MODEL", help=MODEL_HELP)
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="float32", show_default=True, help="Of the encoder.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps, ...")
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Chunks of 2 s that are encoded together.",
)
def embed(
    paths: tuple[str, ...], output: Path | None, timestamps: bool, model: str, dtype: str, device: str, batch_size: int
) -> None:
    """Embed audio files: any format and rate libsndfile reads (wav, flac, ogg, opus, mp3, ...).

    Channels are mixed down and the rate converted to 16 kHz. Folders are searched for audio at any depth. Without -o, a line
    per file shows what was computed. With -o, the table has the columns "path" and "embedding" (float32), and "timestamp" in
    milliseconds with --timestamps: np.load("clips.npz")["embedding"], or pandas.read_parquet("clips.parquet").

    A file that cannot be read is reported and does not stop the rest; the exit code is then 1.
    """
    if output and output.suffix not in OUTPUT_SUFFIXES:
        raise HearMwmaeError(f"output must end in {' or '.join(OUTPUT_SUFFIXES)}, got {output}")
    if output and not output.absolute().parent.is_dir():
        raise HearMwmaeError(f"cannot write {output}: there is no folder {output.absolute().parent}")
    if output:
        try:
            check_writable(output)
        except OSError as error:
            raise HearMwmaeError(f"cannot write {output}: {error.strerror}") from error
    if output and output.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise HearMwmaeError("writing .parquet needs pyarrow: pip install 'hear-mwmae[parquet]'")
    files = find_audio(paths)
    embedder = load_embedder(model, dtype=dtype, max_batch=batch_size)
    try:
        embedder.to(torch.device(device))
        torch.zeros(1, device=device).item()  # "meta", say, is a device that holds no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise HearMwmaeError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    failures: list[str] = []
    results = []
    for result in embed_files(embedder, files, timestamps, failures, progress=len(files) > 1):
        if output:
            results.append(result)
        else:
            click.echo(_summary(result.path, result.embedding))
    for failure in failures:
        click.echo(f"not embedded: {failure}", err=True)
    if output:
        write_table(output, results)
        click.echo(f"{len(results)} of {len(files)} files -> {output}")
    if failures:
        sys.exit(1)


@main.command()
@click.argument("model", default="")
def info(model: str) -> None:
    """Describe MODEL: kind, sizes, windows, front-end, and what its embeddings look like.

    Without MODEL: the one embedded in the package. Else a registered name, a directory, a .safetensors file,
    org/repo[@revision] on the Hugging Face Hub, or a checkpoint of the authors' code.
    """
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
        "decoder windows": ", ".join(str(w) if w else "global" for w in decoder.window_sizes) or "global",
        "weights": ", ".join(dtypes),
        "input": f"{frontend.sample_rate} Hz mono, log-mel {config.input_frames} frames x {frontend.n_mels} bands per chunk",
        "patches": f"{config.patch_size[0]} frames x {config.patch_size[1]} bands, {config.num_tokens} tokens",
        "scene embedding": f"{config.embedding_size} numbers per clip",
        "timestamp embedding": f"{config.embedding_size} numbers every {step:g} ms",
    }
    for name, value in rows.items():
        click.echo(f"{name:20} {value}")


@main.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("destination", type=click.Path(file_okay=False, path_type=Path))
@click.option("--encoder-heads", type=click.IntRange(1), help="Attention heads, where the width is none of the paper's.")
def convert(source: Path, destination: Path, encoder_heads: int | None) -> None:
    """Convert a checkpoint of the authors' JAX code to config.json + model.safetensors in DESTINATION.

    SOURCE is the flax checkpoint file, or the directory with a file named "checkpoint" in it. Everything is inferred from the
    weights but the number of encoder heads, which follows from the width for the sizes of the paper.
    """
    config, state = load_official(source, encoder_heads)
    save_model(destination, config, state)
    click.echo(f"{sum(value.numel() for value in state.values()):,} parameters -> {destination}")


main.add_command(analyze)
main.add_command(reconstruct)


def _summary(file: str, embedding: np.ndarray) -> str:
    values = embedding.reshape(-1, embedding.shape[-1]).mean(axis=0)
    shape = " x ".join(map(str, embedding.shape))
    head = " ".join(f"{value:+.3f}" for value in values[:6])
    return f"{file}: {shape} float32, mean {values.mean():+.3f}, norm {np.linalg.norm(values):.2f}, starts {head}"


@main.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("repo", metavar="ORG/REPO")
@click.option("--private", is_flag=True, help="Create the repository as a private one, if it does not exist yet.")
@click.option(
    "--dry-run",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write what would be uploaded to this new folder, and upload nothing.",
)
def push(directory: Path, repo: str, private: bool, dry_run: Path | None) -> None:
    """Push the model in DIRECTORY to the Hugging Face Hub, with a generated model card.

    Goes up: config.json, model.safetensors, and a README.md made from the configuration and, where there is one, from card.json
    (licence, data, results, ...). The token comes from HF_TOKEN or `hf auth login`.
    """
    from .mae import MaskedAutoencoder  # only here: embedding needs no decoder

    card = model_card(directory, repo)
    MaskedAutoencoder.from_pretrained(str(directory))  # what goes up has to load
    click.echo(hub.push(directory, repo, card, private, dry_run))


@main.command()
@click.argument("sources", nargs=-1, required=True)
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--codec", type=click.Choice(["flac", "opus"]), default="flac", show_default=True, help="flac is lossless.")
@click.option("--kind", default="audio", show_default=True, help="Of clips whose source says none; recipes give shares by kind.")
@click.option(
    "--shard-size", type=click.IntRange(1), default=256, show_default=True, metavar="MIB", help="Of source files in a shard."
)
@click.option("--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True, help="Processes.")
def pack(sources: tuple[str, ...], out: Path, codec: str, kind: str, shard_size: int, jobs: int) -> None:
    """Pack audio for `pretrain`: 16 kHz mono clips of at most ten seconds, in WebDataset shards with an index, in the folder OUT.

    SOURCES are folders, audio files, a manifest (.csv: path, and kind or what else is known of the clips), or shards (.tar,
    .parquet) here or on a server, such as 'hf://datasets/confit/audioset-16khz-wds/2m/train/*.tar'. An interrupted pack goes on
    with the same command. What cannot be read is listed in OUT/skipped.csv.
    """
    try:
        from .training.pack import pack as run_packing
    except ModuleNotFoundError as error:
        raise HearMwmaeError(f"packing needs {error.name}: pip install 'hear-mwmae[train]'") from error

    packed = run_packing(sources, out, codec, kind, shard_size << 20, jobs)
    skipped = f"; {packed.skipped} skipped, see {out / 'skipped.csv'}" if packed.skipped else ""
    click.echo(f"{packed.clips:,} clips, {packed.hours:.2f} hours, {packed.shards} shards -> {out}{skipped}")


@main.command()
@click.argument("recipe")
@click.argument("data", required=False)
@click.argument("run", type=click.Path(file_okay=False, path_type=Path), required=False)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the recipe: steps=100, model.decoder.depth=2.")
@click.option("--accelerator", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True)
@click.option(
    "--look-every",
    type=click.IntRange(0),
    default=500,
    show_default=True,
    help="Steps between pictures and probes; the end has them, too.",
)
@click.option(
    "--probe",
    "tasks",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="HEAR-format task folder for linear probes on the way; may be given again.",
)
@click.option("--resume", is_flag=True, help="Go on with RUN, and refuse to begin it: for scripts that restart what has stopped.")
@click.option("--dry-run", is_flag=True, help="Only say what the run would take: shapes, parameters, memory, time.")
def pretrain(
    recipe: str,
    data: str | None,
    run: Path | None,
    changes: tuple[str, ...],
    accelerator: str,
    look_every: int,
    tasks: tuple[Path, ...],
    resume: bool,
    dry_run: bool,
) -> None:
    """Pretrain a model as RECIPE says, on the audio in DATA, into RUN.

    RECIPE is a .toml file, or the name of one that comes with the package, such as mwmae-tiny-cpu. DATA is a pack of audio, made
    by `hear-mwmae pack`: a folder, or its URL (https, s3, gs, hf, ...). RUN receives checkpoints/, log.csv, tensorboard/,
    pictures/ of reconstructions, probes.csv and finally model/. The same command goes on where an interrupted run stopped. For
    several processes, on one or many machines: torchrun --nproc-per-node 8 --no-python hear-mwmae pretrain RECIPE DATA RUN.
    """
    # Only here: embedding needs none of what training does.
    try:
        from .training.dry_run import dry_run as estimate
        from .training.loop import pretrain as run_pretraining
        from .training.recipe import Recipe
        from .training.run_files import newest_checkpoint
    except ModuleNotFoundError as error:
        raise HearMwmaeError(f"pretraining needs {error.name}: pip install 'hear-mwmae[train]'") from error

    if tasks and not look_every:
        raise click.UsageError("--probe needs a --look-every above 0")
    settings = Recipe.read(recipe, changes)
    if dry_run:
        for what, value in estimate(settings, accelerator):
            _echo_once(f"{what:20} {value}")
    elif data is None or run is None:
        raise click.UsageError("DATA and RUN are needed, unless --dry-run is given")
    elif resume and not newest_checkpoint(run):
        raise HearMwmaeError(f"{run} has no checkpoint to go on from")
    else:
        _echo_once(f"model: {run_pretraining(settings, data, run, accelerator, look_every, tasks)}")


def _echo_once(text: str) -> None:
    """By one of the processes that torchrun started."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(text)


if __name__ == "__main__":
    main()
