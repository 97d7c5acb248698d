"""Embeddings of tasks: RESULTS/TASK/embeddings, computed once and written atomically."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import read_json
from hear_mwmae.tasks import METADATA, VOCABULARY, read_metadata
from hear_mwmae.weights import hash_weights

from . import kit
from .check import problems_of
from .results import ABOUT, EMBEDDINGS, provenance


class Model:
    """A HEAR module with its model, loaded by the kit.

    HearMwmaeError if it cannot be loaded.

    Attributes:
        embedding: heareval's ``Embedding``.
        identity: the cache key of embeddings: the module, its options, its pooling, and the hash of
            its weights (the model's name, if it is not a torch module).
    """

    def __init__(self, module: str, model: str | None, options: dict) -> None:
        self.model = model
        self.embedding = kit.load(module, model, options)
        loaded = self.embedding.model
        torch_module = isinstance(loaded, torch.nn.Module)
        self.identity: dict[str, Any] = {
            "module": module,
            "options": options,
            "weights": hash_weights(loaded) if torch_module else model or "the module's own",
            "pooling": getattr(getattr(loaded, "config", None), "pooling", None),
        }


def is_embedded(model: Model, task: Path, results: Path) -> bool:
    """Whether ``results`` has the task.

    HearMwmaeError if it was embedded with another model or other labels.
    """
    out = results / task.name / EMBEDDINGS
    if not (out / ABOUT).is_file():
        return False
    made = read_json(out / ABOUT)
    if differing := [key for key, value in model.identity.items() if made.get(key) != value]:
        raise HearMwmaeError(
            f"{out} was made with another {', '.join(differing)}; give this model another folder"
        )
    splits = [f"{split}.json" for split in read_metadata(task).splits]
    for name in [METADATA, VOCABULARY, *splits]:
        if (out / name).read_bytes() != (task / name).read_bytes():
            raise HearMwmaeError(
                f"{out} was made of another {name}; remove it, and the results beside it"
            )
    return True


def embed_task(model: Model, folder: Path, results: Path) -> None:
    """Embed a task into ``results/TASK/embeddings``. HearMwmaeError if it is not complete."""
    sample_rate = model.embedding.sample_rate
    if problems := problems_of(folder, sample_rate):
        raise HearMwmaeError(f"{folder} is not complete: {'; '.join(problems)}")
    splits = read_metadata(folder).splits
    out = results / folder.name / EMBEDDINGS
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{EMBEDDINGS}.tmp")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process
    kit.embed_task(model.embedding, folder, partial)
    for split in splits:
        shutil.rmtree(partial / split)  # a file per clip; the kit has joined them
    dimensions = read_json(partial / f"{splits[0]}.embedding-dimensions.json")
    about = {
        **model.identity,
        "model": model.model,
        "embedding_size": dimensions[1],
        **provenance(model.identity["module"]),
    }
    (partial / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
    partial.rename(out)
