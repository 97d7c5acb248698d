"""Embeddings of tasks: RESULTS/NAME/TASK/embeddings, each made once and whole or not there."""

from __future__ import annotations

import json
import shutil
import time
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile

from . import kit
from .tasks import check_task

EMBEDDINGS = "embeddings"
ABOUT = "about.json"


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


def embed(model: Model, task: Path, results: Path, batch_size: int | None = None) -> None:
    """Embed a task into ``results/TASK/embeddings``."""
    out = results / task.name / EMBEDDINGS
    partial = out.with_name(f".{EMBEDDINGS}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    began = time.monotonic()
    kit.embed_task(model.embedding, task, partial, batch_size)
    for split in json.loads((task / "task_metadata.json").read_text())["splits"]:
        shutil.rmtree(partial / split)  # a file per clip, which the kit has joined to one array by now
    about = model.about | {"task": task.name, "batch_size": batch_size, "hours": round(hours_of(task), 4)}
    about |= {"seconds": round(time.monotonic() - began, 1)}
    (partial / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
    partial.rename(out)


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
