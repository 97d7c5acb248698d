"""Embeddings of tasks: RESULTS/NAME/TASK/embeddings, each made once and whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import time
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.distributed as dist

from . import kit
from .tasks import check_task

EMBEDDINGS = "embeddings"
ABOUT = "about.json"


def join_group() -> tuple[int, int]:
    """(rank, number) of this process among those that torchrun started; (0, 1) without it."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        return 0, 1
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # what the kit's "cuda" then means
    if not dist.is_initialized():
        dist.init_process_group("gloo")  # only to wait for each other
    return dist.get_rank(), world


class Model:
    """A HEAR module with its model; loaded when something has to be embedded."""

    def __init__(self, module: str, model: str | None, options: dict) -> None:
        self.about = {"module": module, "model": model, "options": options}

    @cached_property
    def embedding(self) -> object:
        """The kit's."""
        return kit.load(**self.about)


def is_embedded(model: Model, task: Path, results: Path) -> bool:
    """Whether ``results`` has the task. Raises ValueError when it has it of another model, or when the task is not complete."""
    out = results / task.name / EMBEDDINGS
    if not (out / ABOUT).is_file():
        if problems := check_task(task):
            raise ValueError(f"{task} is not complete: {'; '.join(problems)}")
        return False
    made = json.loads((out / ABOUT).read_text())
    if differing := [key for key, value in model.about.items() if made[key] != value]:
        raise ValueError(f"{out} was made with another {', '.join(differing)}; give this model another folder")
    return True


def embed(model: Model, task: Path, results: Path, batch_size: int | None = None, rank: int = 0, world: int = 1) -> None:
    """Embed a task into ``results/TASK/embeddings``; under torchrun, every process of the group calls it."""
    out = results / task.name / EMBEDDINGS
    partial = out.with_name(f".{EMBEDDINGS}.tmp")
    began = time.monotonic()
    splits = json.loads((task / "task_metadata.json").read_text())["splits"]
    if rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
    if world == 1:
        kit.embed_task(model.embedding, task, partial, batch_size)
    else:
        dist.barrier()
        share = _share(task, splits, partial / f"share-{rank}", rank, world)
        if share:
            kit.embed_task(model.embedding, share, share.with_name("embedded"), batch_size)
        dist.barrier()
        if rank == 0:
            _join(task, splits, partial)
    if rank == 0:
        for split in splits:
            shutil.rmtree(partial / split)  # a file per clip, which the kit has joined to one array by now
        about = model.about | {"task": task.name, "batch_size": batch_size, "processes": world, "hours": round(hours_of(task), 4)}
        about |= {"seconds": round(time.monotonic() - began, 1)}
        (partial / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
        partial.rename(out)
    if world > 1:
        dist.barrier()


def _share(task: Path, splits: list[str], folder: Path, rank: int, world: int) -> Path | None:
    """A task folder with every ``world``-th clip of each split, from the ``rank``-th on; None where a split would be empty."""
    labels = {split: list(json.loads((task / f"{split}.json").read_text()).items()) for split in splits}
    world = min(world, *map(len, labels.values()))
    if rank >= world:
        return None
    view = folder / task.name
    view.mkdir(parents=True)
    for split, clips in labels.items():
        (view / f"{split}.json").write_text(json.dumps(dict(clips[rank::world])))
    for path in task.iterdir():
        if not (view / path.name).exists():
            (view / path.name).symlink_to(path.resolve())
    return view


def _join(task: Path, splits: list[str], partial: Path) -> None:
    """One set of embeddings from the shares, as one process would have left it."""
    shares = sorted(partial.glob("share-*"))
    for split in splits:
        (partial / split).mkdir()
        for file in [file for share in shares for file in (share / "embedded" / split).iterdir()]:
            file.rename(partial / split / file.name)
    kit.join_clips(task, partial)
    for share in shares:
        shutil.rmtree(share)


def hours_of(task: Path, sample_rate: int = 16000) -> float:
    """Hours of audio in a task."""
    files = [path for path in (task / str(sample_rate)).rglob("*") if path.is_file()]
    return sum(soundfile.info(path).duration for path in files) / 3600


def disk_needed(model: Model, task: Path) -> int:
    """Bytes that embedding a task takes at its height: the kit writes everything twice before one copy is removed."""
    metadata = json.loads((task / "task_metadata.json").read_text())
    if metadata["embedding_type"] == "event":
        size, second = model.embedding.model.timestamp_embedding_size, model.embedding.sample_rate
        silence = np.zeros((1, second), np.float32)
        per_second = model.embedding.get_timestamp_embedding_as_numpy(silence)[1].shape[1]
        vectors = int(hours_of(task) * 3600 * per_second)
    else:
        size = model.embedding.model.scene_embedding_size
        vectors = sum(len(json.loads((task / f"{split}.json").read_text())) for split in metadata["splits"])
    return 2 * vectors * size * 4
