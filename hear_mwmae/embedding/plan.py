"""The parts of a run, and whether a folder of parts belongs to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from ..data.sources import Item
from ..embedder import Embedder
from ..errors import HearMwmaeError

PLAN = "plan.json"
#: Version of the files in a folder of parts.
FORMAT = 1
#: A part has a 64th of the files, within these limits of files and bytes.
FEWEST_FILES, MOST_FILES, MOST_BYTES = 64, 256, 64 << 20


def cut(items: Sequence[Item]) -> list[list[Item]]:
    """Cut the items into parts: files by number and size, a shard alone.

    A function of the list alone.
    """
    most = min(max(len(items) // 64, FEWEST_FILES), MOST_FILES)
    parts: list[list[Item]] = []
    filled = 0
    for item in items:
        if not parts or item.is_shard or parts[-1][-1].is_shard or len(parts[-1]) == most or filled >= MOST_BYTES:
            parts.append([])
            filled = 0
        parts[-1].append(item)
        filled += item.size
    return parts


def make_plan(model: Embedder, items: Sequence[Item], timestamps: bool) -> dict[str, object]:
    """Everything that determines the rows, except their last bits, which also depend on device and
    batch size.
    """
    inputs = hashlib.sha256()
    for item in items:
        inputs.update(repr((item.name, item.url, item.size, item.modified)).encode("utf-8", "backslashreplace"))
    config = {name: value for name, value in model.config.to_dict().items() if name != "pooling"}
    weights = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, value in model.encoder.state_dict().items():
        weights.update(name.encode() + value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return {
        "format": FORMAT,
        "model": weights.hexdigest(),
        "dtype": str(next(model.encoder.parameters()).dtype).removeprefix("torch."),
        "timestamps": model.timestamps if timestamps else "none",
        "pooling": "none" if timestamps else model.config.pooling,
        "inputs": f"{len(items)}, {inputs.hexdigest()[:16]}",
    }


def check_plan(file: Path, plan: dict[str, object]) -> None:
    """HearMwmaeError with the differences if ``file`` is the plan of another run."""
    try:
        other = json.loads(file.read_text())
        differences = [name for name, value in plan.items() if other[name] != value]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HearMwmaeError(f"{file} is not the plan of a run: {error}") from error
    if "dtype" in differences and "model" in differences:
        differences.remove("model")  # the precision changes its weights
    if differences:
        shown = "; ".join(
            f"another {name}" if name == "model" else f"{name} {other[name]}, not {plan[name]}" for name in differences
        )
        raise HearMwmaeError(
            f"{file.parent} holds the parts of another run ({shown}): repeat its command, remove the folder, or give another -o"
        )
