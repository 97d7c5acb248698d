"""Optimisers and the learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from .recipe import Recipe

BETAS, EPS = (0.9, 0.999), 1e-8


def make_optimisers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW over everything (the paper's), or Muon on the hidden matrices and AdamW on the rest.

    The paper decays every parameter, biases and norms included; so does this.
    """
    hidden = {name for name, p in model.named_parameters() if p.ndim == 2 and ".blocks." in name}
    if recipe.optimiser == "adamw":
        hidden = set()
    learning_rate, muon_learning_rate = recipe.learning_rates
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[name in hidden].append(parameter)
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups[False], learning_rate, BETAS, EPS, recipe.weight_decay)]
    if hidden:
        optimisers.append(
            torch.optim.Muon(
                groups[True],
                muon_learning_rate,
                recipe.weight_decay,
                adjust_lr_fn="match_rms_adamw",  # one rate then suits matrices of every shape
            )
        )
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"]
    return optimisers


def schedule(step: int, recipe: Recipe) -> float:
    """Factor on the peak rates at ``step``, from 0: linear warm-up from 0, constant, then a cosine to 0 at the last step."""
    warmup, decay = recipe.warmup_and_decay
    if step < warmup:
        return step / warmup
    decayed = step - (recipe.steps - decay)
    return 0.5 * (1 + math.cos(math.pi * max(decayed, 0) / decay))
