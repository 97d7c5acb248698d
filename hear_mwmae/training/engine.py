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
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.distributed.fsdp import MixedPrecision

from ..encoder import Block
from ..files import replacing
from .recipe import Recipe

FABRIC_PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}


def make_fabric(recipe: Recipe, accelerator: str = "auto") -> Fabric:
    """Fabric for this process: alone, or one of those that torchrun started (it says so in the environment)."""
    world, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    check_shares(recipe, world)
    if world == 1:
        strategy = "auto"
    elif recipe.strategy == "fsdp":
        checkpointing = {Block} if recipe.activation_checkpointing else None
        strategy = FSDPStrategy(
            auto_wrap_policy={Block},
            activation_checkpointing_policy=checkpointing,
            state_dict_type="full",
            use_orig_params=True,
            # No casts of its own: autocast then computes what it does with ddp, and mask noise and loss stay float32.
            mixed_precision=MixedPrecision(),
        )
    else:
        strategy = DDPStrategy()
    try:
        fabric = Fabric(
            accelerator=accelerator,
            strategy=strategy,
            devices=local,
            num_nodes=world // local,
            precision=FABRIC_PRECISIONS[recipe.precision],
        )
    except (RuntimeError, MisconfigurationException) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{local} process(es) on accelerator {accelerator!r} cannot be had here: {reason}") from error
    fabric.launch()
    return fabric


def check_shares(recipe: Recipe, world: int) -> None:
    """ValueError where ``world`` processes cannot have equal shares of a batch, each in as many equal parts as it says."""
    if recipe.batch_size % (world * recipe.accumulate):
        raise ValueError(
            f"batch_size {recipe.batch_size} cannot be shared by {world} processes with accumulate = {recipe.accumulate}: "
            f"it must be a multiple of {world * recipe.accumulate}"
        )


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


def clip_gradient(fabric: Fabric, model: nn.Module, optimisers: list[torch.optim.Optimizer], largest: float) -> None:
    """Scale the gradient down to the norm ``largest``, as a whole, whoever holds its pieces."""
    if isinstance(fabric.strategy, FSDPStrategy):
        fabric.clip_gradients(model, optimisers[0], max_norm=largest, error_if_nonfinite=False)
    else:  # Fabric's own would clip each optimiser's part by itself
        nn.utils.clip_grad_norm_(model.parameters(), largest)


def save_state(fabric: Fabric, path: Path, state: dict) -> None:
    """Write a run's state atomically; every process calls it, the first one writes."""
    with replacing(path) if fabric.is_global_zero else nullcontext(path) as temporary:
        fabric.save(temporary, state)
    fabric.barrier()


def load_state(fabric: Fabric, path: Path, state: dict) -> None:
    """Fill the entries of ``state`` from ``path``. Raises ValueError when it is damaged, or belongs to another run."""
    check_identity(path, state["identity"])
    fabric.load(path, state, weights_only=True)


def check_identity(path: Path, identity: dict[str, str]) -> None:
    """ValueError when the state at ``path`` is damaged, or was saved under another identity: recipe or data."""
    try:
        saved = torch.load(path, weights_only=True, mmap=True, map_location="cpu")["identity"]
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is no checkpoint of a run, or damaged; remove it to begin anew") from error
    for what, value in identity.items():
        if saved.get(what) != value:
            raise ValueError(f"{path} belongs to another {what}:\n  {saved.get(what)}\nthis one is\n  {value}")
