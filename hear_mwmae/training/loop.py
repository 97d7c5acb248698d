"""The pretraining loop: one process, resumable at any moment."""

from __future__ import annotations

import csv
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from ..checkpoint import save_model
from ..mae import MaskedAutoencoder
from .data import FeatureStore
from .optim import make_optimisers, schedule
from .recipe import Recipe

LOG_FIELDS = ("step", "loss", "rate", "seconds")


def pretrain(recipe: Recipe, data_dir: str | Path, run_dir: str | Path) -> Path:
    """Train from scratch, or go on from ``run_dir/checkpoint.pt``; returns the directory of the finished model.

    Batches and masks are functions of the seed and the step, so that a run that was interrupted, and then started again
    with the same arguments, ends with the very weights of one that was not. SIGTERM saves a checkpoint and stops.
    Raises ValueError when the loss is no longer finite.
    """
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    config = recipe.model_config()
    torch.manual_seed(recipe.seed)
    model = MaskedAutoencoder(config)
    optimisers = make_optimisers(model, recipe)
    batches = FeatureStore(data_dir, config.frontend).batches(recipe.kinds, recipe.batch_size, config.input_frames, recipe.seed)
    checkpoint = run_dir / "checkpoint.pt"
    first, seconds = _resume(checkpoint, model, optimisers, recipe) if checkpoint.is_file() else (0, 0.0)

    stop = _StopOnSignal()
    log = _Log(run_dir / "log.csv", first)
    began = time.monotonic() - seconds
    for step in tqdm(range(first, recipe.steps), initial=first, total=recipe.steps, desc="pretrain", unit="step"):
        factor = schedule(step, recipe)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = factor * group["initial_lr"]
        loss = train_step(model, optimisers, batches[step], recipe, step)
        if not torch.isfinite(loss):
            raise ValueError(f"the loss is {loss.item()} at step {step}: lower the learning rate, or look at the data")
        log.write(step, loss.item(), factor, time.monotonic() - began)
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps or stop.asked:
            _save(checkpoint, model, optimisers, recipe, step + 1, time.monotonic() - began)
        if stop.asked:
            raise SystemExit(f"stopped by a signal at step {step + 1}; the same command goes on from there")
    log.close()
    save_model(run_dir / "model", config, model.state_dict())
    return run_dir / "model"


def train_step(
    model: MaskedAutoencoder,
    optimisers: list[torch.optim.Optimizer],
    spectrogram: torch.Tensor,
    recipe: Recipe,
    step: int,
) -> torch.Tensor:
    """One update on a (B, frames, mels) batch; returns the loss before it, ()."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    noise = torch.rand(len(spectrogram), model.config.num_tokens, generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        loss = model(spectrogram, noise).loss
    loss.backward()
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad()
    return loss.detach()


def _save(
    path: Path, model: nn.Module, optimisers: list[torch.optim.Optimizer], recipe: Recipe, step: int, seconds: float
) -> None:
    state = {
        "recipe": recipe.fingerprint(),
        "step": step,
        "seconds": seconds,
        "model": model.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def _resume(path: Path, model: nn.Module, optimisers: list[torch.optim.Optimizer], recipe: Recipe) -> tuple[int, float]:
    state = torch.load(path, weights_only=True)
    if state["recipe"] != recipe.fingerprint():
        raise ValueError(f"{path} belongs to another recipe:\n  {state['recipe']}\nthis one is\n  {recipe.fingerprint()}")
    model.load_state_dict(state["model"])
    for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    return state["step"], state["seconds"]


class _StopOnSignal:
    """Remembers SIGTERM, so that the loop can finish its step and save."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True


class _Log:
    """A CSV with a row per step; rows at and after the step of a resumed run are dropped first."""

    def __init__(self, path: Path, first: int) -> None:
        kept = []
        if path.is_file():
            with open(path, newline="") as stream:
                kept = [row for row in csv.DictReader(stream) if row["seconds"] and int(row["step"]) < first]
        self.stream = open(path, "w", newline="", buffering=1)  # noqa: SIM115 - open as long as the run
        self.writer = csv.DictWriter(self.stream, LOG_FIELDS)
        self.writer.writeheader()
        self.writer.writerows(kept)

    def write(self, step: int, loss: float, rate: float, seconds: float) -> None:
        values = (step, f"{loss:.6f}", f"{rate:.6f}", f"{seconds:.1f}")
        self.writer.writerow(dict(zip(LOG_FIELDS, values, strict=True)))

    def close(self) -> None:
        self.stream.close()
