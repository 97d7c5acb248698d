"""A finished run -> a model directory to ship: float16 weights, measured results, model card.

    python -m hear_mwmae.training.publish RECIPE DATA RUN TASK_DIR... -o weights/mwmae-tiny --hardware "two cores"

Everything the card says is computed here: hours and licences from the manifest, steps, time and loss from the log, scores
by the probes on the HEAR-format tasks, of the very weights that are written, beside two baselines.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ..card import CARD_SOURCE, model_card
from ..checkpoint import CONFIG_NAME, WEIGHTS_NAME, load_embedder, read_model, save_model
from ..commands import Command
from ..files import replacing, write_text
from ..hub import CARD_NAME, LOSS_NAME, sha256_of
from .baselines import LogMel, untrained
from .hear_task import read_task
from .pack import MANIFEST
from .probe import Embeds, metric, probe
from .recipe import Recipe
from .run_files import check_identity, newest_checkpoint
from .shards import Pack

#: Steps over which the final loss is averaged: a single batch's is noise.
LOSS_WINDOW = 200


def describe_data(data_dir: Path) -> str:
    """Markdown: hours per kind, and a row per package with its hours and licences."""
    hours: dict[tuple[str, str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    totals: dict[str, float] = defaultdict(float)
    if not (data_dir / MANIFEST).is_file():
        raise ValueError(f"{data_dir} has no {MANIFEST}: a model card says of all its audio where it comes from")
    with open(data_dir / MANIFEST, newline="", encoding="utf-8") as stream:
        rows = csv.DictReader(stream)
        if missing := sorted({"package", "version", "licence", "kind", "seconds"} - set(rows.fieldnames or ())):
            raise ValueError(f"{data_dir / MANIFEST} lacks {missing}, which `hear_mwmae.training.debian_audio` writes")
        for row in rows:
            seconds = float(row["seconds"])
            hours[row["package"], row["version"], row["licence"]][row["kind"]] += seconds / 3600
            totals[row["kind"]] += seconds / 3600
    summary = ", ".join(f"{kind} {value:.1f} h" for kind, value in sorted(totals.items()))
    lines = [
        f"{sum(totals.values()):.1f} hours of freely licensed audio from {len(hours)} packages of Debian's main section "
        f"(`python -m hear_mwmae.training.debian_audio`): {summary}.",
        "",
        "| package | version | hours | licences of the audio |",
        "|---|---|---|---|",
    ]
    for (package, version, licence), kinds in sorted(hours.items(), key=lambda item: -sum(item[1].values())):
        parts = ", ".join(f"{kind} {value:.2f}" for kind, value in sorted(kinds.items()))
        lines.append(f"| {package} | {version} | {parts} | {licence} |")
    return "\n".join(lines)


def describe_training(recipe: Recipe, name: str, rows: list[dict[str, str]], hardware: str) -> str:
    """Markdown: recipe, steps, time, machine, loss."""
    if len(rows) != recipe.steps:
        raise ValueError(f"the run has {len(rows)} steps of the {recipe.steps} of {name}: the run is not finished")
    loss = np.mean([float(row["loss"]) for row in rows[-LOSS_WINDOW:]])
    minutes = float(rows[-1]["seconds"]) / 60
    start = f", from the weights of {recipe.start_from}" if recipe.start_from else ""
    optimiser = {"muon": "Muon on the hidden matrices and AdamW on the rest", "adamw": "AdamW"}[recipe.optimiser]
    return (
        f"Recipe `{name}`: {recipe.steps:,} steps of {recipe.batch_size} crops of two seconds "
        f"({recipe.steps * recipe.batch_size:,} crops){start}, {optimiser}, {recipe.precision}, seed {recipe.seed}. "
        f"{minutes:.0f} minutes on {hardware}; "
        f"loss {loss:.3f} over the last {LOSS_WINDOW} steps (mean squared error on masked, normalised log-mel patches).\n\n"
        f"![Loss by step]({LOSS_NAME})"
    )


def read_log(run_dir: Path) -> list[dict[str, str]]:
    """The rows of a run's log.csv."""
    with open(run_dir / "log.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def draw_loss(rows: list[dict[str, str]], path: Path) -> None:
    """The loss of every step, and its running mean, as a PNG."""
    loss = np.array([float(row["loss"]) for row in rows])
    window = min(LOSS_WINDOW // 4, len(loss))
    figure = Figure(figsize=(8, 3.2), dpi=100, layout="constrained")
    axis = figure.subplots()
    axis.semilogy(loss, linewidth=0.5, alpha=0.4, label="loss of a step")
    mean = np.convolve(loss, np.full(window, 1 / window), "valid")
    axis.semilogy(np.arange(len(mean)) + window / 2, mean, label=f"mean of {window} steps")
    axis.set(xlabel="step", ylabel="mean squared error")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    figure.savefig(path, format="png")


def measure(tasks: tuple[Path, ...], columns: dict[str, Embeds]) -> list[dict]:
    """A row per task with the mean score over its splits, in percent, of every column."""
    rows = []
    for task in map(read_task, tasks):
        scores = {name: round(100 * float(np.mean(probe(task, model))), 1) for name, model in columns.items()}
        rows.append({"task": task.name, "metric": metric(task), **scores})
    return rows


@click.command(cls=Command, help=__doc__)
@click.argument("recipe")
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("tasks", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="As in the command that made the run.")
@click.option("--hardware", required=True, help="What the run ran on, for the card.")
@click.option("--limits", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Text file, a known limit per line.")
def main(
    recipe: str,
    data: Path,
    run: Path,
    tasks: tuple[Path, ...],
    output: Path,
    changes: tuple[str, ...],
    hardware: str,
    limits: Path | None,
) -> None:
    settings, name = Recipe.read(recipe, changes), " ".join((Path(recipe).stem, *changes))
    if not (checkpoint := newest_checkpoint(run)):
        raise ValueError(f"{run} is no run: it has no checkpoints")
    check_identity(checkpoint, settings, Pack(data))
    rows = read_log(run)
    training = describe_training(settings, name, rows, hardware)
    config, state = read_model(run / "model")
    # Rounded to 11 bits: half the size, and results as good as float32's to the digits shown.
    save_model(output, config, state, torch.float16)
    columns = {
        "value": load_embedder(output),
        "untrained": untrained(config),
        "log_mel": LogMel(),
    }
    card = {
        "license": "apache-2.0",
        "description": (
            f"{settings.preset}, a small masked autoencoder for general-purpose audio embeddings, pretrained on freely licensed "
            "audio. For the package `hear-mwmae`."
        ),
        "datasets": ["audio-of-debian-packages"],
        "data": describe_data(data),
        "training": training,
        "results": measure(tasks, columns),
        "results_command": (
            f"python -m hear_mwmae.training.publish {recipe} DATA RUN {' '.join(t.name for t in tasks)} -o OUT --hardware TEXT"
        ),
        "limits": limits.read_text().splitlines() if limits else [],
    }
    with replacing(output / LOSS_NAME) as temporary:
        draw_loss(rows, temporary)
    write_text(output / CARD_SOURCE, json.dumps(card, indent=2) + "\n")
    write_text(output / CARD_NAME, model_card(output, f"hear-mwmae/{output.name}"))
    for row in card["results"]:
        click.echo(" ".join(f"{key} {value}" for key, value in row.items()))
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        click.echo(f"{name} sha256 {sha256_of(output / name)}")


if __name__ == "__main__":
    main()
