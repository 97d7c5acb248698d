"""What made an output: stored in it, and compared before it grows or is replaced."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch

from .._version import __version__
from ..embedder import Embedder
from ..errors import HearMwmaeError

#: What the numbers depend on. An output holds numbers of one kind.
DECISIVE = ("weights", "dtype", "timestamps", "pooling")


def provenance_of(model: Embedder, name: str, timestamps: bool) -> dict[str, str]:
    """What makes embeddings; ``name`` is the name of the model."""
    return {
        "package": f"hear-mwmae {__version__}",
        "model": name,
        "weights": weights_hash(model),
        "dtype": str(next(model.encoder.parameters()).dtype).removeprefix("torch."),
        "timestamps": model.timestamps if timestamps else "none",
        "pooling": "none" if timestamps else model.config.pooling,
    }


def weights_hash(model: Embedder) -> str:
    """SHA-256 of the encoder's tensors (names, types, shapes, values) and of the configuration
    without its pooling.
    """
    config = {name: value for name, value in model.config.to_dict().items() if name != "pooling"}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, value in sorted(model.encoder.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_provenance(found: Mapping[str, str], wanted: Mapping[str, str], where: object) -> None:
    """HearMwmaeError if the numbers in the output ``where`` are of another kind."""
    if not found:
        raise HearMwmaeError(f"{where} is not an output of this command: --overwrite replaces it")
    differences = [name for name in DECISIVE if found.get(name) != wanted[name]]
    if "dtype" in differences and "weights" in differences:
        differences.remove("weights")  # the precision changes their bytes
    said = [f"{name} {found.get(name)}, not {wanted[name]}" for name in differences]
    if "weights" in differences:
        said[differences.index("weights")] = f"model {found.get('model')} with other weights"
    if said:
        raise HearMwmaeError(
            f"{where} holds other embeddings ({'; '.join(said)}): "
            "--overwrite replaces it, another -o keeps it"
        )
