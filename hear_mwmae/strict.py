"""Weights into a module: nothing missing, unexpected, of another shape, or not finite."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import HearMwmaeError

#: Numbers that torch checks and converts in the calling thread. A process that has used torch's
#: threads cannot be forked safely, and loading a model should not be what prevents it.
PIECE = 1 << 14


def load_strictly(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Give ``module`` the weights of ``state``, in its own precision.

    Raises HearMwmaeError, which names the first weights that are missing, unexpected, of another
    shape, or not finite floats.
    """
    expected = module.state_dict()
    compare_shapes(expected, {name: tuple(value.shape) for name, value in state.items()}, what)
    bad = [name for name, value in state.items() if not _is_finite(value)]
    _refuse([f"{name} does not hold finite floating-point numbers" for name in bad], what)
    trainable = {name: weight.requires_grad for name, weight in module.named_parameters()}
    cast = {name: _cast(value, expected[name].dtype) for name, value in state.items()}
    module.load_state_dict(cast, assign=True)
    for name, weight in module.named_parameters():
        weight.requires_grad_(trainable[name])


def compare_shapes(
    expected: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], what: str | Path
) -> None:
    """HearMwmaeError if a weight is missing, unexpected or of another shape; ``what`` has them."""
    problems = []
    for name in dict.fromkeys([*expected, *shapes]):
        if name not in shapes:
            problems.append(f"{name} is missing")
        elif name not in expected:
            problems.append(f"{name} is unexpected")
        elif shapes[name] != tuple(expected[name].shape):
            wanted = list(expected[name].shape)
            problems.append(f"{name} is {list(shapes[name])}, and should be {wanted}")
    _refuse(problems, what)


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


def _refuse(problems: Sequence[str], what: str | Path) -> None:
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise HearMwmaeError(
            f"the weights of {what} do not match its configuration: {'; '.join(problems[:3])}{more}"
        )


def _is_finite(value: Tensor) -> bool:
    pieces = value.reshape(-1).split(PIECE)
    return value.is_floating_point() and all(bool(torch.isfinite(piece).all()) for piece in pieces)


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    if value.dtype == dtype:
        return value
    cast = torch.empty(value.shape, dtype=dtype, device=value.device)
    pairs = zip(cast.view(-1).split(PIECE), value.reshape(-1).split(PIECE), strict=True)
    for target, piece in pairs:
        target.copy_(piece)
    return cast
