"""The precision of a run: measured once at its start, and kept in its checkpoints."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from lightning_fabric import Fabric

from .. import linear
from ..errors import HearMwmaeError
from .checkpoints import newest_checkpoint, saved_identity
from .recipe import AUTO, Recipe

#: Rows, inputs and outputs of the measured product: the MLP of the base model, with enough rows for
#: any device.
ROWS, INPUTS, OUTPUTS = 8000, 768, 3072
#: Measurements of each precision, after one that warms up.
ROUNDS = 3
#: Least ratio of the rates: the conversions of autocast take time, and rounding changes the result
#: a little.
WORTH = 1.25


def product_rate(dtype: torch.dtype, device: str = "cpu") -> float:
    """GFLOP/s of one matrix product in ``dtype``, by the faster of MKL and oneDNN on a CPU."""
    x, weight = (torch.randn(rows, INPUTS, device=device, dtype=dtype) for rows in (ROWS, OUTPUTS))
    bias = torch.zeros(OUTPUTS, device=device, dtype=dtype)
    ways: list[Callable[[], object]] = [lambda: torch.nn.functional.linear(x, weight, bias)]
    if device == "cpu" and linear.ONEDNN:
        ways.append(lambda: torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))
    return 2 * ROWS * INPUTS * OUTPUTS / min(timed(way, device) for way in ways) / 1e9


def timed(run: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of one call, including the work that it starts on an accelerator."""
    start = time.perf_counter()
    run()
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def faster_precision(device: str) -> str:
    """ "bfloat16" where its products on ``device`` reach WORTH times the rate of float32's, else
    "float32".

    Rates are medians of interleaved measurements, one or two seconds in all.
    """
    rates: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    with torch.random.fork_rng(devices=[]):  # a run with a measurement has the weights of one without
        for number in range(ROUNDS + 1):
            for name, found in rates.items():
                found += [product_rate(getattr(torch, name), device)] * (number > 0)
    return "bfloat16" if median(rates["bfloat16"]) > WORTH * median(rates["float32"]) else "float32"


def default_device() -> str:
    """The device that Fabric chooses for "auto": the accelerator of this machine, or its CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found.type if found and found.type in ("cuda", "mps") else "cpu"


def settle_precision(recipe: Recipe, run_dir: Path | None = None, accelerator: str = "auto") -> Recipe:
    """``recipe`` with a precision in place of "auto": the one in the newest checkpoint of
    ``run_dir``, or the faster one.
    """
    if recipe.precision != AUTO:
        return recipe
    if run_dir and (checkpoint := newest_checkpoint(run_dir)):
        precision = json.loads(saved_identity(checkpoint)["recipe"])["precision"]
    else:
        device = default_device() if accelerator == "auto" else accelerator
        if device == "cuda" and torch.cuda.is_available():  # each process of torchrun on its own GPU
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        # Fabric refuses a device that is not there.
        precision = faster_precision(device) if device in ("cpu", default_device()) else "float32"
    return dataclasses.replace(recipe, precision=precision)


def check_agreement(fabric: Fabric, recipe: Recipe) -> None:
    """HearMwmaeError where this process has measured another precision than the first one."""
    if (others := fabric.broadcast(recipe.precision)) != recipe.precision:
        raise HearMwmaeError(
            f'precision = "auto" is {others} for the first process and {recipe.precision} for process {fabric.global_rank}: '
            "give the recipe one of them"
        )
