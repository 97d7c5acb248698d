"""What a run says of itself: what it amounts to, its starts, its log, probes on the way."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

from .._version import __version__
from ..config import ModelConfig, describe_windows
from ..embedder import Embedder
from ..errors import HearMwmaeError
from ..mae import MaskedAutoencoder
from ..probe import probe
from ..tasks import Task, read_task
from .fabric import settle_precision
from .recipe import Recipe


def describe(recipe: Recipe, accelerator: str = "auto") -> Iterator[tuple[str, str]]:
    """(what, value) lines about ``recipe`` on this machine: shapes, parameters, steps."""
    config = recipe.model_config()
    with torch.device("meta"):
        model = MaskedAutoencoder(config)
    size = f"{recipe.batch_size} crops x {config.input_frames} frames"
    lengths = ", ".join(map(str, config.frontend.win_lengths))
    yield "input", f"{size} x {config.frontend.n_mels} bands, windows of {lengths} samples"
    yield "tokens", f"{config.num_tokens} a crop, {config.num_kept} kept"
    for name, part in (("encoder", config.encoder), ("decoder", config.decoder)):
        count = sum(parameter.numel() for parameter in getattr(model, name).parameters())
        shape = f"width {part.width}, {part.depth} blocks, {part.heads} heads"
        yield name, f"{count:,} parameters: {shape}, windows {describe_windows(part.window_sizes)}"
    decay = round(recipe.decay_ratio * recipe.steps)
    crops = recipe.steps * recipe.batch_size
    parts = f"{recipe.warmup_steps:,} of warm-up, {decay:,} of decay"
    yield "steps", f"{recipe.steps:,} ({crops:,} crops), {parts}"
    adamw, muon = recipe.learning_rates
    yield "peak rates", f"AdamW {adamw:g}" + f", Muon {muon:g}" * (recipe.optimizer == "muon")
    yield "precision", settle_precision(recipe, accelerator).precision


def write_start(fabric: Fabric, run_dir: Path, recipe: Recipe, first: int) -> None:
    """Write the recipe, and add the command and the versions of this start to ``starts.jsonl``."""
    recipe.write(run_dir / "recipe.toml")
    start = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
        "first_step": first,
        "processes": fabric.world_size,
        "device": str(fabric.device),
        "hear_mwmae": __version__,
        "torch": torch.__version__,
    }
    with open(run_dir / "starts.jsonl", "a", encoding="utf-8") as stream:
        stream.write(json.dumps(start) + "\n")


def read_tasks(folders: Sequence[Path], recipe: Recipe) -> list[Task]:
    """The tasks to probe: a bad one raises HearMwmaeError before the run, not hours later."""
    if folders and recipe.strategy == "fsdp":
        raise HearMwmaeError(
            "probes need the whole encoder in one process, which fsdp cuts into pieces: "
            "probe RUN/model afterwards"
        )
    tasks = [read_task(folder) for folder in folders]
    if len({task.name for task in tasks}) < len(tasks):
        raise HearMwmaeError("two of the tasks have one name: their probes are told apart by it")
    return tasks


def probe_scores(
    model: nn.Module, config: ModelConfig, tasks: Sequence[Task], device: torch.device
) -> dict[str, float]:
    """{"probe/TASK": score, 0 to 1}; a task that cannot be read is named on stderr and left out.

    torch's random generator and the model stay as they are.
    """
    with torch.random.fork_rng(devices=[]):
        embedder = Embedder(config).to(device)
    embedder.encoder.load_state_dict(model.get_submodule("encoder").state_dict())
    scores = {}
    for task in tasks:
        try:
            scores[f"probe/{task.name}"] = float(np.mean(probe(task, embedder)))
        except HearMwmaeError as error:  # does not end a run of days
            tqdm.write(f"no probe of {task.name}: {error}", sys.stderr)
    return scores
