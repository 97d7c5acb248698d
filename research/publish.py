"""A finished run -> a model directory: float16 weights, measured results, model card.

All numbers of the card are computed here: hours and licences from what the pack says of its clips,
steps, time and loss from the log, scores by the probes on the HEAR-format tasks, of the very
weights that are written, beside two baselines.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import shlex
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ..card import CARD_SOURCE, model_card
from ..checkpoint import CONFIG_NAME, WEIGHTS_NAME, load_embedder, read_model, save_model
from ..config import PAPERS_POOLING
from ..data.crops import used_clips
from ..data.pack import SAMPLE_RATE, Pack
from ..errors import HearMwmaeError
from ..files import printable, replacing, write_text
from ..hub import CARD_NAME, LOSS_NAME, sha256_of
from ..baselines import LogMelStatistics, untrained
from ..probe import Embeds, metric, probe
from ..tasks import Task, read_task
from ..weights import DEFAULT_MODEL, registry
from .checkpoints import check_identity, newest_checkpoint
from .precision import settle_precision
from .recipe import RANDOM, Recipe

#: Labels of clips that a card lists: columns of the packed manifests.
LICENCE = "licence"
LABELS = ("package", "version", LICENCE)
SPELLINGS = {LICENCE: "license"}
#: For a clip without the label.
NOT_STATED = "not stated"
#: Steps over which the final loss is averaged, because single batches are noisy.
LOSS_WINDOW = 200


def describe_data(pack: Pack, recipe: Recipe, origin: str) -> str:
    """Markdown about the training audio: hours per kind, and a table of hours for each combination
    of LABELS.

    None of these need be known: what some clips say and others do not is "not stated" for the
    others. Raises HearMwmaeError for a pack of format 1, which has no table of labels.

    Args:
        origin: where the audio comes from, in words.
    """
    labels = list(pack.labels())
    hours: dict[tuple[str, ...], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    totals: dict[str, float] = defaultdict(float)
    for number in used_clips(pack, recipe):
        clip = pack.clips[number]
        kind = pack.kinds[clip["kind"]]
        if recipe.kinds and not recipe.kinds.get(kind):
            continue
        share = int(clip["samples"]) / SAMPLE_RATE / 3600
        hours[tuple(_label(labels[number], name) for name in LABELS)][kind] += share
        totals[kind] += share
    # Columns without any label are left out; a missing licence is stated.
    stated = [place for place in range(len(LABELS)) if any(row[place] != NOT_STATED for row in hours)]
    packages = {row[0] for row in hours} - {NOT_STATED}
    summary = ", ".join(f"{kind} {value:.1f} h" for kind, value in sorted(totals.items()))
    origins = f" from {len(packages)} package{'s' * (len(packages) > 1)}" if packages else ""
    lines = [f"{sum(totals.values()):.1f} hours of audio{origins}: {summary}. {origin}".rstrip()]
    if stated:
        body = [
            [*(row[place] for place in stated), ", ".join(f"{kind} {value:.2f}" for kind, value in sorted(kinds.items()))]
            for row, kinds in sorted(hours.items(), key=lambda item: -sum(item[1].values()))
        ]
        head = [*(LABELS[place] for place in stated), "hours"]
        rows = [f"| {' | '.join(row)} |" for row in (head, *body)]  # unpadded, because licences are long
        lines += ["", rows[0], "|---" * len(head) + "|", *rows[1:]]
    if LICENCE not in (LABELS[place] for place in stated):
        lines += ["", f"Licence of the audio: {NOT_STATED}."]
    return "\n".join(lines)


def _label(labels: dict, name: str) -> str:
    """A label of a clip, as a cell of a table."""
    value = labels.get(name) or labels.get(SPELLINGS.get(name, name))
    return printable(str(value)).replace("|", "\\|").replace("\n", " ") if value else NOT_STATED


def describe_training(recipe: Recipe, name: str, rows: list[dict[str, str]], hardware: str) -> str:
    """Markdown: recipe, steps, time, machine, loss."""
    if len(rows) != recipe.steps:
        raise HearMwmaeError(f"the run has {len(rows)} steps of the {recipe.steps} of {name}: the run is not finished")
    loss = np.mean([float(row["loss"]) for row in rows[-LOSS_WINDOW:]])
    minutes = float(rows[-1]["seconds"]) / 60
    start = "" if recipe.start_from == RANDOM else f", from the weights of {recipe.start_from or DEFAULT_MODEL}"
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
    path = run_dir / "log.csv"
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            float(row["loss"]), float(row["seconds"])
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise HearMwmaeError(f"{path} is no log of a run: {error!r}") from error
    return rows


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


def measure(tasks: list[Task], columns: dict[str, Embeds]) -> list[dict]:
    """A row per task with the mean score over its splits, in percent, of every column."""
    rows = []
    for task in tasks:
        scores = {name: round(100 * float(np.mean(probe(task, model))), 1) for name, model in columns.items()}
        rows.append({"task": task.name, "metric": metric(task), **scores})
    return rows


def publish_run(
    recipe: str,
    changes: Sequence[str],
    data: Path,
    run: Path,
    tasks: Sequence[Path],
    out: Path,
    hardware: str,
    licence: str,
    origin: str,
    datasets: Sequence[str] = (),
    limits: Path | None = None,
    pooling: str | None = None,
) -> list[str]:
    """Write the model directory ``out``; returns lines about its results and files.

    Raises HearMwmaeError where the run is not finished, or of another recipe or pack; ``out`` is
    then left as it was.

    Args:
        recipe, changes: as of the command that made the run.
        data: the pack.
        hardware, origin: for the card, in words.
        licence, datasets: of the weights and of the audio, as the Hub calls them.
        limits: a text file with a known limit of the model per line.
        pooling: of the scene embeddings of the model directory; the recipe's when None.
    """
    settings = Recipe.read(recipe, changes)
    name = Path(recipe).stem + "".join(f" --set {shlex.quote(change)}" for change in changes)
    if not (checkpoint := newest_checkpoint(run)):
        raise HearMwmaeError(f"{run} is no run: it has no checkpoints")
    settings, pack = settle_precision(settings, run), Pack(str(data))
    check_identity(checkpoint, settings, pack)
    probed = [read_task(task) for task in tasks]
    rows = read_log(run)
    known_limits = []
    if limits:
        try:
            known_limits = limits.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise HearMwmaeError(f"{limits} is no text in UTF-8: {error}") from error
    card: dict[str, Any] = {
        "license": licence,
        "description": f"{settings.preset}, a small masked autoencoder for general-purpose audio embeddings. For the package "
        "`hear-mwmae`.",
        "datasets": list(datasets),
        "data": describe_data(pack, settings, origin),
        "training": describe_training(settings, name, rows, hardware),
        "limits": known_limits,
    }
    config, state = read_model(run / "model")
    config = dataclasses.replace(config, pooling=pooling or config.pooling)
    with TemporaryDirectory() as rounded:
        # Rounded to 11 bits: half the size, and results as good as float32's to the digits shown.
        save_model(rounded, config, state, torch.float16)
        models: dict[str, Embeds] = {
            "value": load_embedder(rounded),
            "untrained": untrained(config),
            "log_mel": LogMelStatistics(config.pooling),
        }
        if config.pooling != PAPERS_POOLING:
            models["paper_pooling"] = load_embedder(rounded, pooling=PAPERS_POOLING)
        card["results"] = measure(probed, models)
    names = " ".join(task.folder.name for task in probed)
    card["results_command"] = f"hear-mwmae publish {name} PACK RUN {names} -o OUT ..."
    # Written only now, so that an error above leaves ``out`` unchanged.
    save_model(out, config, state, torch.float16)
    with replacing(out / LOSS_NAME) as temporary:
        draw_loss(rows, temporary)
    write_text(out / CARD_SOURCE, json.dumps(card, indent=2) + "\n")
    folder = out.resolve().name
    # The card loads the model by its name if the package contains it, else by a path.
    write_text(out / CARD_NAME, model_card(out, folder if folder in registry() else f"path/to/{folder}"))
    results = [" ".join(f"{key} {value}" for key, value in row.items()) for row in card["results"]]
    return results + [f"{file} sha256 {sha256_of(out / file)}" for file in (CONFIG_NAME, WEIGHTS_NAME)]
