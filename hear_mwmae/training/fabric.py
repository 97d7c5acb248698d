"""Processes and devices of a run: one process or many, CPU or GPU.

A process computes its share of a global batch; `torchrun --nproc-per-node N ... hear-mwmae
pretrain` starts N of them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.connector import _PRECISION_INPUT
from lightning_fabric.plugins import TorchCheckpointIO
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_fabric.wrappers import _FabricModule
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from ..encoder import Block
from ..errors import HearMwmaeError
from .recipe import Recipe

#: Parameters of glibc's mallopt, see its manual page.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
FABRIC_PRECISIONS: dict[str, _PRECISION_INPUT] = {"float32": "32-true", "bfloat16": "bf16-mixed"}


def make_fabric(recipe: Recipe, accelerator: str = "auto") -> Fabric:
    """Fabric for this process: a single one, or one of torchrun's (by the environment)."""
    world, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    check_shares(recipe, world)
    strategy: str | Strategy
    if world == 1:
        strategy = "auto"
    elif recipe.strategy == "fsdp":
        # Outputs of a forward pass other than the loss are read, never changed in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        strategy = ModelParallelStrategy(share_weights, world, 1, save_distributed_checkpoint=False)
    else:
        strategy = DDPStrategy(timeout=timedelta(hours=4))  # others wait while the first one probes
    try:
        fabric = Fabric(
            accelerator=accelerator,
            strategy=strategy,
            devices=local,
            num_nodes=world // local,
            precision=FABRIC_PRECISIONS[recipe.precision],
            plugins=[] if isinstance(strategy, ModelParallelStrategy) else [WritesInPlace()],  # that one writes so by itself
        )
    except (RuntimeError, MisconfigurationException) as error:
        reason = str(error).strip().splitlines()[0]
        raise HearMwmaeError(f"{local} process(es) on accelerator {accelerator!r} cannot be had here: {reason}") from error
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    return fabric


class WritesInPlace(TorchCheckpointIO):
    """Writes a checkpoint directly to its path; Fabric's own writes through memory and the folder
    for temporary files.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with open(path, "wb") as stream:  # torch loses the system's error when it opens the file by itself
            torch.save(checkpoint, stream)


def share_weights(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """FSDP2: each process keeps a part of every weight, and gathers a block only while it computes
    it.
    """
    for module in [*(module for module in model.modules() if isinstance(module, Block)), model]:
        fully_shard(module, mesh=mesh["data_parallel"])
    return model


def keep_freed_memory() -> None:
    """Keep freed memory in this process, so that a step reuses the memory of the step before.

    glibc returns large blocks to the system at once, and the system zeroes each page when it is
    used again. This took a tenth of a step of the recipe `mwmae-tiny-cpu` (docs/step_cost.md).
    Without glibc, this function does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)  # no block is mapped separately, which would be returned when freed
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # and the free end of the heap is kept


def check_shares(recipe: Recipe, world: int) -> None:
    """HearMwmaeError where ``world`` processes cannot have equal shares of a batch, each in as many
    equal parts as it says.
    """
    if recipe.batch_size % (world * recipe.accumulate):
        raise HearMwmaeError(
            f"batch_size {recipe.batch_size} cannot be shared by {world} processes with accumulate = {recipe.accumulate}: "
            f"it must be a multiple of {world * recipe.accumulate}"
        )


def prepare(fabric: Fabric, model: nn.Module, recipe: Recipe) -> _FabricModule:
    """The model on its device and among its processes."""
    if recipe.activation_checkpointing:
        checkpoint_blocks(model)
    if recipe.compile:
        # attention.plan_groups is a pure function: traced, it gives what its cache gives.
        warnings.filterwarnings("ignore", "(?s).*functools.lru_cache")
        model = cast(nn.Module, torch.compile(model))
    return fabric.setup_module(model)


def checkpoint_blocks(model: nn.Module) -> None:
    """Have every transformer block recompute its activations in the backward pass."""
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
