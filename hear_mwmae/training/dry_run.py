"""Estimates of a run before it starts: shapes, parameters, memory and time."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from statistics import median

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..config import describe_windows
from ..data.crops import AHEAD
from ..data.pack import CLIP_SECONDS, SAMPLE_RATE
from ..mae import MaskedAutoencoder
from .fabric import check_shares, checkpoint_blocks, make_fabric, prepare
from .loop import mask_noise, train_step
from .optim import make_optimisers
from .precision import settle_precision
from .recipe import Recipe

#: Crops of a computed update, and number of updates: enough for an estimate, few enough for a
#: laptop.
TRIAL_CROPS, TRIAL_STEPS = 16, 3
GIB = 1 << 30


def dry_run(recipe: Recipe, accelerator: str = "auto") -> Iterator[tuple[str, str]]:
    """(what, value) lines about ``recipe`` on this machine. Scales a few small updates on noise."""
    recipe = settle_precision(recipe, accelerator=accelerator)
    config = recipe.model_config()
    world = int(os.environ.get("WORLD_SIZE", 1))
    check_shares(recipe, world)
    crops = max(min(recipe.batch_size, TRIAL_CROPS) // world, 1)  # of one process
    trial = dataclasses.replace(recipe, batch_size=crops * world, accumulate=1, compile=False, activation_checkpointing=False)
    fabric = make_fabric(trial, accelerator)
    spectrogram = torch.randn(crops, config.input_frames, config.frontend.n_mels)
    model = MaskedAutoencoder(config).to(fabric.device)
    kept, bands = config.num_kept, config.frontend.n_mels
    yield "input", f"{recipe.batch_size} x {config.input_frames} frames x {bands} bands, {config.num_tokens} tokens, {kept} kept"
    for name, part in (("encoder", config.encoder), ("decoder", config.decoder)):
        windows = f", windows {describe_windows(part.window_sizes)}" if part.window_sizes else ""
        count = sum(p.numel() for p in getattr(model, name).parameters())
        yield name, f"{count:,} parameters: width {part.width}, {part.depth} blocks, {part.heads} heads{windows}"
    mine = recipe.batch_size // world // recipe.accumulate
    recomputed = 0.0
    with fabric.autocast():
        if recipe.activation_checkpointing:
            recomputed = largest_block_bytes(model)
            checkpoint_blocks(model)
        activations = (bytes_per_crop(model, spectrogram.to(fabric.device)) + recomputed) * mine / GIB
    prepared = prepare(fabric, model, trial)
    optimisers = [fabric.setup_optimizers(optimiser) for optimiser in make_optimisers(prepared, trial)]
    # With FSDP, the part of this process.
    weights = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in prepared.parameters()) * 4 / GIB
    yield "processes", f"{world}, each {mine} crops at a time on {fabric.device.type}, {recipe.precision}"
    # Weights, gradients, and two moments of AdamW (Muon has one).
    yield "memory per process", f"{4 * weights:.2f} GiB of weights, gradients and moments, {activations:.2f} GiB of activations"
    if recipe.resident:
        yield "resident audio", f"{3600 * SAMPLE_RATE * 2 / GIB:.2f} GiB per hour of the pack, on the device of every process"
    else:
        clips = AHEAD * recipe.workers * recipe.batch_size // world
        ahead = clips * CLIP_SECONDS * SAMPLE_RATE * 2 / GIB  # 16-bit samples
        yield "shared memory per process", f"up to {ahead:.2f} GiB of audio, read ahead by {recipe.workers} workers"
    seconds = []
    for step in range(TRIAL_STEPS + 1):
        start = time.perf_counter()
        train_step(fabric, prepared, optimisers, spectrogram, mask_noise(trial, config.num_tokens, step)[:crops], trial).item()
        seconds.append(time.perf_counter() - start)
    per_step = median(seconds[1:]) * recipe.batch_size / trial.batch_size
    yield (
        "time",
        (
            f"{recipe.batch_size / per_step:.1f} crops per second by {TRIAL_STEPS} updates of {trial.batch_size} crops, so "
            f"{per_step:.2f} s a step and {recipe.steps * per_step / 3600:.1f} hours for {recipe.steps:,} steps, without the data"
        ),
    )


def largest_block_bytes(model: MaskedAutoencoder) -> float:
    """Bytes per crop of the largest block: activation checkpointing recomputes one block
    at a time.
    """
    config, cls, device = model.config, int(model.config.encoder.cls_token), model.encoder.pos_embed.device
    inputs = (
        (model.encoder.blocks[0], torch.randn(1, config.num_kept + cls, config.encoder.width, device=device)),
        (model.decoder.blocks[0], torch.randn(1, config.num_tokens + cls, config.decoder.width, device=device)),
    )
    return max(bytes_per_crop(block, tokens) for block, tokens in inputs)


def bytes_per_crop(model: torch.nn.Module, spectrogram: Tensor) -> float:
    """Bytes that a forward pass keeps for each crop, by the difference between two numbers of
    crops.

    What is kept once, such as autocast's copies of the weights, so drops out.
    """
    few, many = spectrogram[:1], torch.cat([spectrogram] * 2)
    return (_saved_bytes(model, many) - _saved_bytes(model, few)) / (len(many) - len(few))


def _saved_bytes(model: torch.nn.Module, spectrogram: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage counted once, weights
    not.
    """
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(spectrogram)  # held until the bytes are counted, so that no storage is freed and used again
        total = sum(storages.values())
    del output
    return total
