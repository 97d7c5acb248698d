"""A recipe small enough for tests."""

import csv
from pathlib import Path

import tomli_w

from hear_mwmae.training.recipe import Recipe

RECIPE = {
    "preset": "mwmae-tiny",
    "model": {
        "encoder": {"width": 32, "depth": 1, "heads": 2},
        "decoder": {"width": 32, "depth": 1},
    },
    "kinds": {"notes": 0.5, "effects": 0.5},
    "steps": 12,
    "warmup_ratio": 0.25,
    "decay_ratio": 0.5,
    "batch_size": 8,
    "optimizer": "muon",
    "base_learning_rate": 0.032,
    "base_muon_learning_rate": 0.32,
    "precision": "float32",
    "checkpoint_every": 2,
    "workers": 0,
}


def write_recipe(path: Path, **changes: object) -> Path:
    path.write_text(tomli_w.dumps(RECIPE | changes))
    return path


def tiny_recipe(folder: Path, **changes: object) -> Recipe:
    """The recipe, changed, by way of a file."""
    return Recipe.read(write_recipe(folder / "recipe.toml", **changes))


def log(run: Path) -> list[dict[str, str]]:
    """The rows of all starts of a run, each step as it was computed last."""
    by_step: dict[int, dict[str, str]] = {}
    starts = sorted(
        (run / "logs").glob("version_*/metrics.csv"), key=lambda path: path.stat().st_mtime
    )
    for start in starts:
        with open(start, newline="") as stream:
            by_step |= {int(row["step"]): row for row in csv.DictReader(stream) if row["loss"]}
    return [by_step[step] for step in sorted(by_step)]


def losses(run: Path) -> list[float]:
    return [float(row["loss"]) for row in log(run)]
