"""What the loop runs on: one process or many, CPU or GPU, and a run's state on disk. Everything of Lightning Fabric is here.

A process computes its share of a global batch; `torchrun --nproc-per-node N ... hear-mwmae pretrain` starts N of them.
"""

from __future__ import annotations

import os
import pickle
from contextlib import nullcontext
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, FSDPStrategy
from torch import nn

from ..encoder import Block
from ..files import replacing
from .recipe import Recipe

FABRIC_PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}


def make_fabric(recipe: Recipe, accelerator: str = "auto") -> Fabric:
    """Fabric for this process: alone, or one of those that torchrun started (it says so in the environment)."""
    world, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if recipe.batch_size % (world * recipe.accumulate):
        raise ValueError(
            f"batch_size {recipe.batch_size} cannot be shared by {world} processes with accumulate = {recipe.accumulate}: "
            f"it must be a multiple of {world * recipe.accumulate}"
        )
    if world == 1:
        strategy = "auto"
    elif recipe.strategy == "fsdp":
        checkpointing = {Block} if recipe.activation_checkpointing else None
        strategy = FSDPStrategy(
            auto_wrap_policy={Block},
            activation_checkpointing_policy=checkpointing,
            state_dict_type="full",
            use_orig_params=True,
        )
    else:
        strategy = DDPStrategy()
    fabric = Fabric(
        accelerator=accelerator,
        strategy=strategy,
        devices=local,
        num_nodes=world // local,
        precision=FABRIC_PRECISIONS[recipe.precision],
    )
    fabric.launch()
    return fabric


def prepare(fabric: Fabric, model: nn.Module, recipe: Recipe) -> nn.Module:
    """The model on its device and among its processes."""
    if recipe.activation_checkpointing and not isinstance(fabric.strategy, FSDPStrategy):
        checkpoint_blocks(model)
    if recipe.compile:
        model = torch.compile(model)
    return fabric.setup_module(model)


def checkpoint_blocks(model: nn.Module) -> None:
    """Have every transformer block recompute its activations in the backward pass."""
    from torch.utils.checkpoint import checkpoint

    for block in [module for module in model.modules() if isinstance(module, Block)]:
        forward = block.forward
        block.forward = lambda x, forward=forward: checkpoint(forward, x, use_reentrant=False)


def save_state(fabric: Fabric, path: Path, state: dict) -> None:
    """Write a run's state atomically; every process calls it, the first one writes."""
    with replacing(path) if fabric.is_global_zero else nullcontext(path) as temporary:
        fabric.save(temporary, state)
    fabric.barrier()


def load_state(fabric: Fabric, path: Path, state: dict) -> None:
    """Fill the entries of ``state`` from ``path``. Raises ValueError when it is damaged, or belongs to another run."""
    identity = dict(state["identity"])
    try:
        saved = torch.load(path, weights_only=True, mmap=True, map_location="cpu")["identity"]
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is no checkpoint of a run, or damaged; remove it to begin anew") from error
    for what, value in identity.items():
        if saved.get(what) != value:
            raise ValueError(f"{path} belongs to another {what}:\n  {saved.get(what)}\nthis one is\n  {value}")
    fabric.load(path, state, weights_only=True)
