"""Weights into a module, with nothing missing or unexpected, and the hash of a module's weights."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from .errors import HearMwmaeError


def load_strictly(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Give ``module`` the weights of ``state``, in its own precision.

    Raises HearMwmaeError, which names ``what``, if weights are missing, unexpected, of another
    shape, or not finite floats.
    """
    bad = [name for name, v in state.items() if not (v.is_floating_point() and v.isfinite().all())]
    if bad:
        raise HearMwmaeError(f"{what}: {bad[0]} does not hold finite floating-point numbers")
    dtype = next(module.parameters()).dtype
    cast = {name: value.to(dtype) for name, value in state.items()}
    try:
        module.load_state_dict(cast, assign=True)
    except RuntimeError as error:  # a heading, then what is missing, unexpected, of another shape
        first = str(error).splitlines()[1].strip()
        said = f"the weights of {what} do not match its configuration: {first:.300}"
        raise HearMwmaeError(said) from error


def hash_weights(module: nn.Module, about: str = "") -> str:
    """SHA-256 of the names, types, shapes and values of all weights, and of the text ``about``;
    "none" without any.
    """
    weights = module.state_dict()
    if not weights:
        return "none"
    digest = hashlib.sha256(about.encode())
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
