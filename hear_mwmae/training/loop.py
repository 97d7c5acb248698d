"""The pretraining loop: one process, resumable at any moment."""

from __future__ import annotations

import csv
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from ..checkpoint import save_model
from ..files import replacing
from ..mae import MaskedAutoencoder
from .data import FeatureStore
from .optim import make_optimisers, schedule
from .recipe import Recipe

LOG_FIELDS = ("step", "loss", "rate", "seconds")


def pretrain(recipe: Recipe, data_dir: str | Path, run_dir: str | Path) -> Path:
    """Train from scratch, or go on from ``run_dir/checkpoint.pt``; returns the directory of the finished model.

    Batches and masks are functions of the seed and the step, so that a run that was interrupted, and then started again
    with the same arguments, ends with the very weights of one that was not. SIGTERM saves a checkpoint and stops (SystemExit).
    Raises ValueError when the loss is no longer finite, and when the checkpoint is damaged or of another recipe or other data.
    """
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    config = recipe.model_config()
    torch.manual_seed(recipe.seed)
    model = MaskedAutoencoder(config)
    optimisers = make_optimisers(model, recipe)
    store = FeatureStore(data_dir, config.frontend)
    batches = store.batches(recipe.kinds, recipe.batch_size, config.input_frames, recipe.seed)
    # What must not change between the parts of a run.
    identity = {"recipe": recipe.fingerprint(), "data": store.key}
    checkpoint = run_dir / "checkpoint.pt"
    first, seconds = _resume(checkpoint, model, optimisers, identity) if checkpoint.is_file() else (0, 0.0)

    with _sigterm() as terminated, closing(_Log(run_dir / "log.csv", first)) as log:
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
            if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps or terminated.is_set():
                _save(checkpoint, model, optimisers, identity, step + 1, time.monotonic() - began)
            if terminated.is_set():
                raise SystemExit(f"stopped by a signal at step {step + 1}; the same command goes on from there")
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
    path: Path, model: nn.Module, optimisers: list[torch.optim.Optimizer], identity: dict[str, str], step: int, seconds: float
) -> None:
    state = {
        "identity": identity,
        "step": step,
        "seconds": seconds,
        "model": model.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
    }
    with replacing(path) as temporary:
        torch.save(state, temporary)


def _resume(path: Path, model: nn.Module, optimisers: list[torch.optim.Optimizer], identity: dict[str, str]) -> tuple[int, float]:
    try:
        state = torch.load(path, weights_only=True)
        saved_identity = state["identity"]
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is no checkpoint of a run, or damaged; remove it to begin anew") from error
    for what, value in identity.items():
        if saved_identity[what] != value:
            raise ValueError(f"{path} belongs to another {what}:\n  {saved_identity[what]}\nthis one is\n  {value}")
    model.load_state_dict(state["model"])
    for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    return state["step"], state["seconds"]


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that the loop can finish its step and save. Only a main thread may listen to signals."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Log:
    """A CSV with a row per step; rows at and after the step of a resumed run are dropped first."""

    def __init__(self, path: Path, first: int) -> None:
        kept = []
        if path.is_file():
            with open(path, newline="") as stream:
                kept = [row for row in csv.DictReader(stream) if row["seconds"] and int(row["step"]) < first]
        with replacing(path) as temporary, open(temporary, "w", newline="") as stream:
            writer = csv.DictWriter(stream, LOG_FIELDS)
            writer.writeheader()
            writer.writerows(kept)
        self.stream = open(path, "a", newline="", buffering=1)  # noqa: SIM115 - open as long as the run
        self.writer = csv.DictWriter(self.stream, LOG_FIELDS)

    def write(self, step: int, loss: float, rate: float, seconds: float) -> None:
        values = (step, f"{loss:.6f}", f"{rate:.6f}", f"{seconds:.1f}")
        self.writer.writerow(dict(zip(LOG_FIELDS, values, strict=True)))

    def close(self) -> None:
        self.stream.close()
