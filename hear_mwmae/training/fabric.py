"""Processes and devices of a run: one process or many, CPU or GPU.

A process computes its share of a global batch; `torchrun --nproc-per-node N ... hear-mwmae
pretrain` starts N of them.
"""

import ctypes
import dataclasses
import os
import platform
import warnings
from functools import partial
from typing import cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import Logger
from lightning_fabric.strategies import ModelParallelStrategy, Strategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from ..encoder import Block
from ..errors import HearMwmaeError, reason
from ..linear import warn_of_emulation
from .recipe import Recipe

#: Parameters of glibc's mallopt, see its manual page.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def make_fabric(recipe: Recipe, accelerator: str = "auto", logger: Logger | None = None) -> Fabric:
    """Fabric for this process: a single one, or one of torchrun's (by the environment).

    The ``recipe`` names its precision, see `settle_precision`.

    Raises HearMwmaeError when the accelerator is not there, or the batch cannot be shared.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if recipe.batch_size % (world * recipe.accumulate):
        raise HearMwmaeError(
            f"batch_size {recipe.batch_size} cannot be shared by {world} processes with accumulate "
            f"= {recipe.accumulate}: it must be a multiple of {world * recipe.accumulate}"
        )
    half = recipe.precision == "bfloat16"
    strategy: str | Strategy = "auto"
    if world > 1 and recipe.strategy == "fsdp":
        # Outputs of a forward pass other than the loss are read, never changed in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        strategy = ModelParallelStrategy(share_weights, world, 1, save_distributed_checkpoint=False)
    elif world > 1:
        strategy = "ddp"
    try:
        fabric = Fabric(
            accelerator=accelerator,
            strategy=strategy,
            devices=local,
            num_nodes=world // local,
            precision="bf16-mixed" if half else "32-true",
            loggers=logger,
        )
    except (RuntimeError, MisconfigurationException) as error:
        wanted = f"{local} process(es) on accelerator {accelerator!r}"
        raise HearMwmaeError(f"{wanted} cannot be had here: {reason(error)}") from error
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    if fabric.is_global_zero and half:
        warn_of_emulation(torch.bfloat16, fabric.device)
    return fabric


def settle_precision(recipe: Recipe, accelerator: str = "auto") -> Recipe:
    """``recipe`` with a precision in place of "auto": float32 on a CPU, bfloat16 elsewhere."""
    if recipe.precision != "auto":
        return recipe
    device = accelerator
    if accelerator == "auto":  # as Fabric chooses
        found = torch.accelerator.current_accelerator(check_available=True)
        device = found.type if found and found.type in ("cuda", "mps") else "cpu"
    if device == "cpu":
        return dataclasses.replace(recipe, precision="float32")
    return dataclasses.replace(recipe, precision="bfloat16")


def keep_freed_memory() -> None:
    """Keep freed memory for the next step, where the C library is glibc.

    glibc returns large blocks to the system, which zeroes each page when it is used again: 120,000
    page faults and 9 % of the time of a step of the recipe `tiny`.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def share_weights(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """FSDP2: each process keeps a part of every weight, and gathers a block only while it computes
    it.
    """
    for module in [*_blocks(model), model]:
        fully_shard(module, mesh=mesh["data_parallel"])
    return model


def prepare(fabric: Fabric, model: nn.Module, recipe: Recipe) -> nn.Module:
    """The model on its device and among its processes."""
    if recipe.activation_checkpointing:
        for block in _blocks(model):
            forward = partial(checkpoint, block.forward, use_reentrant=False)
            block.forward = forward  # type: ignore[method-assign]
    if recipe.compile:
        # tiles.group_heads is a pure function: traced, it gives what its cache gives.
        warnings.filterwarnings("ignore", "(?s).*functools.lru_cache")
        model = cast(nn.Module, torch.compile(model))
    return fabric.setup_module(model)


def _blocks(model: nn.Module) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]
