"""What a recipe amounts to: shapes, parameters, steps."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..config import describe_windows
from ..mae import MaskedAutoencoder
from .fabric import settle_precision
from .recipe import Recipe


def describe(recipe: Recipe, accelerator: str = "auto") -> Iterator[tuple[str, str]]:
    """(what, value) lines about ``recipe`` on this machine."""
    config = recipe.model_config()
    with torch.device("meta"):
        model = MaskedAutoencoder(config)
    sizes = [f"{recipe.batch_size} crops", f"{config.input_frames} frames"]
    sizes += [f"{config.frontend.n_mels} bands"]
    if config.frontend.channels > 1:
        sizes += [f"{config.frontend.channels} windows"]
    yield "input", " x ".join(sizes)
    yield "tokens", f"{config.num_tokens} a crop, {config.num_kept} kept"
    for name, part in (("encoder", config.encoder), ("decoder", config.decoder)):
        count = sum(parameter.numel() for parameter in getattr(model, name).parameters())
        shape = f"width {part.width}, {part.depth} blocks, {part.heads} heads"
        windows = f", windows {describe_windows(part.window_sizes)}" if part.window_sizes else ""
        yield name, f"{count:,} parameters: {shape}{windows}"
    warmup = recipe.warmup_steps
    decay = round(recipe.decay_ratio * recipe.steps)
    crops = recipe.steps * recipe.batch_size
    yield "steps", f"{recipe.steps:,} ({crops:,} crops), {warmup:,} of warm-up, {decay:,} of decay"
    adamw, muon = recipe.learning_rates
    rates = f"AdamW {adamw:g}"
    yield "peak rates", rates + (f", Muon {muon:g}" if recipe.optimizer == "muon" else "")
    yield "precision", settle_precision(recipe, accelerator).precision
