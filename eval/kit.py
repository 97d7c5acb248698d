"""Unmodified heareval: its environment, and its two entry points with the settings that its command
line fixes.

Nothing of heareval is copied or changed on disk. It reads its seed, its grid and its batch size
from names in its modules. They are patched during a call.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import read_json
from hear_mwmae.probing.tasks import TaskFolder

# pytorch-lightning 1.8 reads the checkpoints that it has just written with the torch.load of torch
# before 2.6.
os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

import soundfile
import torch

#: Name -> (points of the grid to try, differences from heareval's grid). Scores of different
#: protocols are never mixed.
PROTOCOLS: dict[str, tuple[int, dict]] = {
    # The kit's stock grid: 8 points drawn from it.
    "hear": (8, {}),
    # The paper's authors': one hidden layer of 1024 and a rate of 1e-4 throughout, dropout chosen
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
    try:
        from heareval.embeddings import task_embeddings as kit
    except ImportError as error:
        raise HearMwmaeError(f"heareval cannot be imported; `make test` installs it: {error}") from error
    try:
        return kit.Embedding(module, model, options)
    except (ImportError, TypeError, AttributeError) as error:
        raise HearMwmaeError(f"{module} is not a HEAR module that can be loaded with these options: {error}") from error


def embed_task(embedding: Any, task: TaskFolder, out: Path, batch_size: int | None = None) -> None:
    """All clips of a task through heareval's ``task_embeddings``, into ``out``.

    Args:
        embedding: of :func:`load`.
        batch_size: clips at a time; None for the kit's choice by their length. Clips of different
            lengths go one by one.
    """
    from heareval.embeddings import task_embeddings as kit

    alike = task.metadata["sample_duration"] is not None
    wanted, loader = batch_size if alike else None, kit.get_dataloader_for_embedding

    def load_batches(data: dict, audio_dir: Path, embedding: Any, batch_size: int) -> object:
        return loader(data, audio_dir, embedding, wanted or batch_size)

    with mock.patch.object(kit, "get_dataloader_for_embedding", load_batches), plain_errors(f"{task.path} cannot be embedded"):
        kit.task_embeddings(embedding, task.path, out)


@contextmanager
def plain_errors(what: str) -> Iterator[None]:
    """Turns failed assertions of the kit, and audio that it cannot read, into a HearMwmaeError that
    begins with ``what``.
    """
    try:
        yield
    except (AssertionError, soundfile.LibsndfileError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else f"an assertion of heareval, {_where(error)}"
        raise HearMwmaeError(f"{what}: {reason}") from error


def _where(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}, {last.line}"


def join_clips(task: TaskFolder, out: Path) -> None:
    """The kit's step after all clips of a task are embedded: one array per split, from a file per
    clip in ``out/SPLIT``.
    """
    from heareval.embeddings import task_embeddings as kit

    shuffler = random.Random(0)  # as in its task_embeddings, one for all splits
    for name in task.label_files:
        shutil.copy(task.path / name, out)
    for split in task.splits:
        kit.memmap_embeddings(out / split, shuffler, task.metadata, split, out, task.labels(split))


def predict_task(embeddings: Path, protocol: str, seed: int) -> dict:
    """Train and test predictors on a task's embeddings by heareval's ``task_predictions``; returns
    its scores.

    Writes into ``embeddings`` and into the current directory, as the kit does.
    """
    from heareval.predictions import task_predictions as kit

    task = TaskFolder(embeddings)
    name = task.metadata["task_name"]
    sizes = {read_json(embeddings / f"{split}.embedding-dimensions.json")[1] for split in task.splits}
    if len(sizes) != 1:
        raise HearMwmaeError(f"{embeddings}: the splits have embeddings of different sizes, {sorted(sizes)}")
    points, changes = PROTOCOLS[protocol]

    def seed_everything(_: int, workers: bool) -> int:
        return seed_kit(seed, workers=workers)

    seed_kit = kit.seed_everything
    patch = mock.patch.multiple(kit, seed_everything=seed_everything, PARAM_GRID=kit.PARAM_GRID | changes)
    with patch, plain_errors(f"{name}, seed {seed}, cannot be predicted"):
        kit.task_predictions(
            embedding_path=embeddings,
            embedding_size=sizes.pop(),
            grid_points=points,
            gpus=[0] if torch.cuda.is_available() else None,
            in_memory=True,
            deterministic=True,
            grid="default",
            logger=logging.getLogger(name),
        )
    return read_json(embeddings / "test.predicted-scores.json")
