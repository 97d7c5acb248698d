"""Unmodified heareval: its environment, and its two entry points with the settings that its command
line fixes.

Nothing of heareval is copied or changed on disk. It reads its seed and its grid from names in its
modules. They are patched during a call.
"""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import read_json

# pytorch-lightning 1.8 reads the checkpoints that it has just written with the torch.load of torch
# before 2.6.
os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

import torch

warnings.filterwarnings("ignore", "pkg_resources is deprecated")  # by libraries of the kit

#: Name -> (points of the grid to try, differences from heareval's grid). Scores of different
#: protocols are never mixed.
PROTOCOLS: dict[str, tuple[int, dict]] = {
    # The kit's stock grid: 8 points drawn from it.
    "hear": (8, {}),
    # The paper's authors: one hidden layer of 1024 and a rate of 1e-4 throughout, dropout chosen
    # by validation.
    "paper": (
        2,
        {
            "hidden_layers": [1],
            "hidden_dim": [1024],
            "lr": [1e-4],
            "dropout": [0.1, 0.25],
            "initialization": [torch.nn.init.xavier_normal_],
        },
    ),
}


def load(module: str, model: str | None, options: dict) -> Any:
    """The kit's ``Embedding``: a HEAR module by its import name, with its model loaded from
    ``model`` and ``options``.
    """
    kit = _import("embeddings.task_embeddings")
    try:
        return kit.Embedding(module, model, options)
    except (ImportError, TypeError, AttributeError) as error:
        raise HearMwmaeError(
            f"{module} is not a HEAR module that can be loaded with these options: {error}"
        ) from error


def embed_task(embedding: Any, folder: Path, out: Path) -> None:
    """All clips of a task through heareval's ``task_embeddings``, into ``out``.

    Args:
        embedding: of :func:`load`.
    """
    _import("embeddings.task_embeddings").task_embeddings(embedding, folder, out)


def predict_task(embeddings: Path, protocol: str, seed: int) -> dict:
    """Train and test predictors on a task's embeddings by heareval's ``task_predictions``; returns
    its scores.

    Writes into ``embeddings`` and into the current directory, as the kit does.
    """
    kit = _import("predictions.task_predictions")
    metadata = read_json(embeddings / "task_metadata.json")
    _, size = read_json(embeddings / f"{metadata['splits'][0]}.embedding-dimensions.json")
    points, changes = PROTOCOLS[protocol]
    seed_kit = kit.seed_everything

    def seed_everything(_: int, workers: bool) -> int:
        return seed_kit(seed, workers=workers)

    grid = kit.PARAM_GRID | changes
    with mock.patch.multiple(kit, seed_everything=seed_everything, PARAM_GRID=grid):
        kit.task_predictions(
            embedding_path=embeddings,
            embedding_size=size,
            grid_points=points,
            gpus=[0] if torch.cuda.is_available() else None,
            in_memory=True,
            deterministic=True,
            grid="default",
            logger=logging.getLogger(metadata["task_name"]),
        )
    return read_json(embeddings / "test.predicted-scores.json")


def known_scores() -> list[str]:
    """Names of heareval's scores."""
    return sorted(_import("score").available_scores)


def _import(name: str) -> Any:
    """A module of heareval. Importing takes seconds, so it is done where it is needed."""
    try:
        return importlib.import_module(f"heareval.{name}")
    except ImportError as error:
        raise HearMwmaeError(
            f"heareval cannot be imported; `make test` installs it: {error}"
        ) from error
