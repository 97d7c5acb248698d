"""Embeddings of tasks: RESULTS/NAME/TASK/embeddings, each made once and written atomically."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import sys
import time
from contextlib import nullcontext
from datetime import timedelta
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.distributed as dist

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import one_at_a_time, read_json
from hear_mwmae.hub import sha256_of

from . import kit
from .circumstances import machine, versions
from .tasks import check_task, count_clips, label_files, read_metadata

EMBEDDINGS = "embeddings"
ABOUT = "about.json"
#: Bytes that the smallest file takes on most file systems.
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
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # what the kit's "cuda" then means
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=PATIENCE)  # only to wait for each other
    return dist.get_rank(), world


class Model:
    """A HEAR module with its model."""

    def __init__(self, module: str, model: str | None, options: dict) -> None:
        self.module, self.model, self.options = module, model, options

    @cached_property
    def embedding(self) -> object:
        """The kit's."""
        return kit.load(self.module, self.model, self.options)

    @cached_property
    def identity(self) -> dict:
        """What tells it from others: the module, its options, its weights, wherever they come from, and how it pools them."""
        pooling = getattr(getattr(self.embedding.model, "config", None), "pooling", None)
        return {"module": self.module, "options": self.options, "weights": self._weights(), "pooling": pooling}

    def _weights(self) -> str:
        """SHA-256 of the loaded weights; of a model that is not torch's, of its files, or else its name."""
        model = self.embedding.model
        if isinstance(model, torch.nn.Module):
            digest = hashlib.sha256()
            for name, value in sorted(model.state_dict().items()):
                digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            return digest.hexdigest()
        if self.model and Path(self.model).exists():
            return _hash_files(Path(self.model))
        return f"of {self.model or 'the module itself'}"


def is_embedded(model: Model, task: Path, results: Path) -> bool:
    """Whether ``results`` has the task. Raises HearMwmaeError when it has it of another model or of other labels."""
    out = results / task.name / EMBEDDINGS
    if not (out / ABOUT).is_file():
        return False
    made = read_json(out / ABOUT)
    if differing := [key for key, value in model.identity.items() if made.get(key) != value]:
        raise HearMwmaeError(f"{out} was made with another {', '.join(differing)}; give this model another folder")
    if changed := [name for name in label_files(task) if (out / name).read_bytes() != (task / name).read_bytes()]:
        raise HearMwmaeError(f"{out} was made of another {changed[0]}; remove it, and the results beside it")
    return True


def check_complete(model: Model, task: Path) -> None:
    """HearMwmaeError where a task lacks something, at the model's sample rate."""
    if problems := check_task(task, model.embedding.sample_rate):
        raise HearMwmaeError(f"{task} is not complete: {'; '.join(problems)}")


def embed(model: Model, task: Path, results: Path, batch_size: int | None = None, rank: int = 0, world: int = 1) -> None:
    """Embed a complete task into ``results/TASK/embeddings``; under torchrun, every process of the group calls it.

    Raises HearMwmaeError when it cannot be embedded, or is being embedded by somebody else.
    """
    out = results / task.name / EMBEDDINGS
    out.parent.mkdir(parents=True, exist_ok=True)
    busy = f"another process is embedding {task.name} into {results}"
    with one_at_a_time(out.with_name(f".{EMBEDDINGS}.lock"), busy) if rank == 0 else nullcontext():
        _embed(model, task, out, batch_size, rank, world)


def _embed(model: Model, task: Path, out: Path, batch_size: int | None, rank: int, world: int) -> None:
    partial = out.with_name(f".{EMBEDDINGS}.tmp")
    began = time.monotonic()
    splits = read_metadata(task)["splits"]
    if rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
    if world == 1:
        if (out / ABOUT).is_file():  # by another process, while this one was looking at other things
            return
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
        about = model.identity | {"model": model.model, "task": task.name, "batch_size": batch_size, "processes": world}
        about |= {"hours": round(hours_of(task, model.embedding.sample_rate), 4), "embeddings": _hash_files(partial)}
        about |= {"seconds": round(time.monotonic() - began, 1), "machine": machine(), "versions": versions(model.module)}
        (partial / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
        partial.rename(out)
    if world > 1:
        dist.barrier()


def _hash_files(path: Path) -> str:
    """SHA-256 of a file, or of the files below a folder; those that name places on this machine are left out."""
    if path.is_file():
        return sha256_of(path)
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file() and "filename-timestamps" not in file.name):
        digest.update(f"{file.relative_to(path)} {sha256_of(file)}\n".encode())
    return digest.hexdigest()


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


@lru_cache  # every header is opened for it, and its sum and its largest are asked for at several places
def clip_seconds(task: Path, sample_rate: int) -> list[float]:
    """Lengths of all clips of a task, at a rate that it has them in."""
    return [
        soundfile.info(task / str(sample_rate) / split / name).duration
        for split in read_metadata(task)["splits"]
        for name in json.loads((task / f"{split}.json").read_text())
    ]


def hours_of(task: Path, sample_rate: int) -> float:
    """Hours of audio in a task, at a rate that it has it in."""
    return sum(clip_seconds(task, sample_rate)) / 3600


def disk_needed(model: Model, task: Path, world: int = 1) -> int:
    """Bytes that embedding a task takes at its height.

    The kit writes every vector twice, to a file per clip and to one array, before the former are removed; shares of many
    processes have an array more. A file takes whole blocks. Events come with their times, as text.
    """
    metadata = read_metadata(task)
    clips = count_clips(task)
    embedding, files, text = model.embedding, 2, 0
    if metadata["embedding_type"] == "event":
        size, files = embedding.model.timestamp_embedding_size, 3
        second = embedding.get_timestamp_embedding_as_numpy(np.zeros((1, embedding.sample_rate), np.float32))[1].shape[1]
        vectors = int(hours_of(task, embedding.sample_rate) * 3600 * second)
        text = 2 * TIME_BYTES * vectors
    else:
        size, vectors = embedding.model.scene_embedding_size, clips
    return (2 + (world > 1)) * vectors * size * 4 + text + clips * files * BLOCK


def memory_needed(model: Model, task: Path) -> int:
    """The most bytes that this process has had so far, the task's longest clip embedded, on a CPU; GPUs have their own."""
    embedding = model.embedding
    longest = round(max(clip_seconds(task, embedding.sample_rate)) * embedding.sample_rate)
    silence = np.zeros((1, longest), np.float32)
    if read_metadata(task)["embedding_type"] == "event":
        embedding.get_timestamp_embedding_as_numpy(silence)
    else:
        embedding.get_scene_embedding_as_numpy(silence)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
