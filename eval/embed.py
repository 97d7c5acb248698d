"""Embeddings of tasks: RESULTS/NAME/TASK/embeddings, computed once and written atomically."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from contextlib import nullcontext
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import one_at_a_time, read_json
from hear_mwmae.hub import sha256_of
from hear_mwmae.probing.tasks import TaskFolder

from . import kit
from .machine import describe_machine, peak_memory, versions
from .results import ABOUT, EMBEDDINGS
from .tasks import problems_of, seconds_of

#: Size of the smallest file on most file systems, in bytes.
BLOCK = 4096
#: Bytes of a timestamp in the kit's JSON.
TIME_BYTES = 8
#: How long processes wait for the slowest of them.
PATIENCE = timedelta(days=7)


def join_group() -> tuple[int, int]:
    """(rank, number) of this process among those that torchrun started; (0, 1) without it."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        return 0, 1
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # the kit's "cuda" then means this device
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=PATIENCE)  # used only for barriers
    return dist.get_rank(), world


class Model:
    """A HEAR module with its model."""

    def __init__(self, module: str, model: str | None, options: dict) -> None:
        self.module, self.model, self.options = module, model, options

    @cached_property
    def embedding(self) -> Any:
        """heareval's ``Embedding``."""
        return kit.load(self.module, self.model, self.options)

    @cached_property
    def identity(self) -> dict:
        """The cache key: the module, its options, its loaded weights, and its pooling."""
        pooling = getattr(getattr(self.embedding.model, "config", None), "pooling", None)
        return {"module": self.module, "options": self.options, "weights": self._weights(), "pooling": pooling}

    def _weights(self) -> str:
        """SHA-256 of the loaded weights; for a model that is not a torch module, of its files, or
        else its name.
        """
        model = self.embedding.model
        if isinstance(model, torch.nn.Module):
            return hash_weights(model)
        if self.model and Path(self.model).exists():
            return _hash_files(Path(self.model))
        return f"of {self.model or 'the module itself'}"


def hash_weights(model: torch.nn.Module) -> str:
    """SHA-256 of the names, types, shapes and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def is_embedded(model: Model, task: TaskFolder, results: Path) -> bool:
    """Whether ``results`` has the task.

    HearMwmaeError if it was embedded with another model or other labels.
    """
    out = results / task.path.name / EMBEDDINGS
    if not (out / ABOUT).is_file():
        return False
    made = read_json(out / ABOUT)
    if differing := [key for key, value in model.identity.items() if made.get(key) != value]:
        raise HearMwmaeError(f"{out} was made with another {', '.join(differing)}; give this model another folder")
    if changed := [name for name in task.label_files if (out / name).read_bytes() != (task.path / name).read_bytes()]:
        raise HearMwmaeError(f"{out} was made of another {changed[0]}; remove it, and the results beside it")
    return True


def check_complete(model: Model, task: TaskFolder) -> None:
    """HearMwmaeError if a task is incomplete at the model's sample rate."""
    if problems := problems_of(task, model.embedding.sample_rate):
        raise HearMwmaeError(f"{task.path} is not complete: {'; '.join(problems)}")


def write_embeddings(model: Model, task: TaskFolder, results: Path, batch_size: int | None, rank: int, world: int) -> None:
    """Embed a complete task into ``results/TASK/embeddings``; under torchrun, every process of the
    group calls it.

    Raises HearMwmaeError if it cannot be embedded, or if another process is embedding it.
    """
    out = results / task.path.name / EMBEDDINGS
    out.parent.mkdir(parents=True, exist_ok=True)
    busy = f"another process is embedding {task.path.name} into {results}"
    with one_at_a_time(out.with_name(f".{EMBEDDINGS}.lock"), busy) if rank == 0 else nullcontext():
        _embed(model, task, out, batch_size, rank, world)


def _embed(model: Model, task: TaskFolder, out: Path, batch_size: int | None, rank: int, world: int) -> None:
    partial = out.with_name(f".{EMBEDDINGS}.tmp")
    began = time.monotonic()
    if rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
    if world == 1:
        if (out / ABOUT).is_file():  # another process has embedded it in the meantime
            return
        kit.embed_task(model.embedding, task, partial, batch_size)
    else:
        dist.barrier()
        share = _share(task, partial / f"share-{rank}", rank, world)
        if share:
            kit.embed_task(model.embedding, share, share.path.with_name("embedded"), batch_size)
        dist.barrier()
        if rank == 0:
            _join(task, partial)
    if rank == 0:
        for split in task.splits:
            shutil.rmtree(partial / split)  # one file per clip, which the kit has joined into one array
        about = model.identity | {"model": model.model, "task": task.path.name, "batch_size": batch_size, "processes": world}
        about |= {"hours": round(hours_of(task, model.embedding.sample_rate), 4), "embeddings": _hash_files(partial)}
        about |= {
            "seconds": round(time.monotonic() - began, 1),
            "machine": describe_machine(),
            "versions": versions(model.module),
        }
        (partial / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
        partial.rename(out)
    if world > 1:
        dist.barrier()


def _hash_files(path: Path) -> str:
    """SHA-256 of a file, or of the files below a folder, without files that contain local paths."""
    if path.is_file():
        return sha256_of(path)
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file() and "filename-timestamps" not in file.name):
        digest.update(f"{file.relative_to(path)} {sha256_of(file)}\n".encode())
    return digest.hexdigest()


def _share(task: TaskFolder, folder: Path, rank: int, world: int) -> TaskFolder | None:
    """A task folder with every ``world``-th clip of each split, from the ``rank``-th on; None if a
    split would be empty.
    """
    labels = {split: list(task.labels(split).items()) for split in task.splits}
    world = min(world, *map(len, labels.values()))
    if rank >= world:
        return None
    view = folder / task.path.name
    view.mkdir(parents=True)
    for split, clips in labels.items():
        (view / f"{split}.json").write_text(json.dumps(dict(clips[rank::world])))
    for path in task.path.iterdir():
        if not (view / path.name).exists():
            (view / path.name).symlink_to(path.resolve())
    return TaskFolder(view)


def _join(task: TaskFolder, partial: Path) -> None:
    """Join the shares into the embeddings that one process would write."""
    shares = sorted(partial.glob("share-*"))
    for split in task.splits:
        (partial / split).mkdir()
        for file in [file for share in shares for file in (share / "embedded" / split).iterdir()]:
            file.rename(partial / split / file.name)
    kit.join_clips(task, partial)
    for share in shares:
        shutil.rmtree(share)


def hours_of(task: TaskFolder, sample_rate: int) -> float:
    """Hours of audio in a task, at one of its sample rates."""
    return sum(seconds_of(task, sample_rate)) / 3600


def disk_needed(model: Model, task: TaskFolder, world: int = 1) -> int:
    """Peak disk space for embedding a task, in bytes.

    The kit writes every vector twice, to one file per clip and to one array, before the files are
    removed. Several processes write another array. The size of a file is rounded up to blocks.
    Events also have their times, as text.
    """
    clips = task.clips
    embedding, files, text = model.embedding, 2, 0
    if task.is_event:
        size, files = embedding.model.timestamp_embedding_size, 3
        second = embedding.get_timestamp_embedding_as_numpy(np.zeros((1, embedding.sample_rate), np.float32))[1].shape[1]
        vectors = int(hours_of(task, embedding.sample_rate) * 3600 * second)
        text = 2 * TIME_BYTES * vectors
    else:
        size, vectors = embedding.model.scene_embedding_size, clips
    return (2 + (world > 1)) * vectors * size * 4 + text + clips * files * BLOCK


def memory_needed(model: Model, task: TaskFolder) -> int:
    """Peak RSS of this process after embedding the task's longest clip, in bytes; GPU memory does
    not count.
    """
    embedding = model.embedding
    longest = round(max(seconds_of(task, embedding.sample_rate)) * embedding.sample_rate)
    silence = np.zeros((1, longest), np.float32)
    if task.is_event:
        embedding.get_timestamp_embedding_as_numpy(silence)
    else:
        embedding.get_scene_embedding_as_numpy(silence)
    return peak_memory()
