"""A recipe small enough for tests."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from hear_mwmae.training.recipe import Recipe

RECIPE = """
preset = "mwmae-tiny"
patch_size = [4, 16]
model = { encoder = { width = 32, depth = 1, heads = 2 }, decoder = { width = 32, depth = 1 } }
start_from = "random"
kinds = { notes = 0.5, effects = 0.5 }
data_fraction = 1.0
semitones = 0.0
steps = 12
warmup_steps = 3
decay_steps = 6
batch_size = 8
optimiser = "muon"
base_learning_rate = 0.032
base_muon_learning_rate = 0.32
weight_decay = 0.05
clip_gradient = 0.0
precision = "float32"
seed = 0
checkpoint_every = 2
keep_last = 2
keep_every = 0
workers = 0
resident = false
accumulate = 1
strategy = "ddp"
activation_checkpointing = false
compile = false
"""


def write_recipe(path: Path, **changes: object) -> Path:
    lines = [line for line in RECIPE.strip().splitlines() if line.split(" = ")[0] not in changes]
    lines += [f"{key} = {_toml(value)}" for key, value in changes.items() if value is not None]
    path.write_text("\n".join(lines) + "\n")
    return path


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(part)}" for key, part in value.items()) + "}"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


def tiny_recipe(folder: Path, **changes: object) -> Recipe:
    """The recipe, changed, by way of a file."""
    return Recipe.read(write_recipe(folder / "recipe.toml", **changes))


def log(run: Path) -> list[dict[str, str]]:
    with open(run / "log.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def losses(run: Path) -> list[float]:
    return [float(row["loss"]) for row in log(run)]
