"""The pretraining loop, resumable at any moment."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from ..checkpoint import save_model
from ..data.crops import Clips, ResidentClips, StepSampler, collate, log_mel_crops, read_batches, worker_errors
from ..data.pack import ABOUT, Pack
from ..errors import HearMwmaeError
from ..files import one_at_a_time
from ..frontend import LogMelFrontend
from ..mae import MaskedAutoencoder
from ..tasks import read_task
from .checkpoints import Checkpoints, newest_checkpoint
from .fabric import make_fabric, prepare
from .optim import make_optimisers, schedule
from .precision import check_agreement, settle_precision
from .progress import PICTURED, Progress
from .recipe import RANDOM, Recipe
from .start import start_from

LOCK = ".lock"
#: A second SIGINT within these seconds counts as the first: `timeout` signals a process, and then
#: its group.
SAME_SIGNAL = 1.0


def pretrain(
    recipe: Recipe,
    data: str | Path,
    run_dir: str | Path,
    accelerator: str = "auto",
    look_every: int = 0,
    tasks: tuple[Path, ...] = (),
) -> Path:
    """Train, or resume from the newest of ``run_dir/checkpoints``; returns the directory of the
    finished model.

    Batches and masks are functions of the seed and the step, for any number of processes. So an
    interrupted run that is started again with the same arguments ends with the same weights, bit
    for bit, as an uninterrupted one. SIGTERM and SIGINT (Ctrl-C) save a checkpoint and stop
    (SystemExit); a second Ctrl-C aborts at once (KeyboardInterrupt).

    Raises HearMwmaeError when the loss is no longer finite, when a shard is gone, when the
    checkpoint is damaged, of another recipe or other data, or beyond the recipe's last step, when
    another process trains into ``run_dir``, and when the model to start from is of another
    architecture.

    Args:
        data: a pack, see `data.pack.Pack`.
        accelerator: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"`` for the accelerator of this
            machine.
        look_every: steps between pictures of reconstructions and probes of ``tasks``; 0 for none.
        tasks: HEAR-format task folders for linear probes while the run goes on.
    """
    if tasks and recipe.strategy == "fsdp":
        raise HearMwmaeError(
            "probes need the whole encoder in one process, which fsdp cuts into pieces: probe RUN/model afterwards"
        )
    probed = tuple(map(read_task, tasks))  # a bad task raises before the run, not hours later
    if len({task.folder.name for task in probed}) < len(probed):
        raise HearMwmaeError("two of the tasks have one name: their probes are told apart by it")
    run_dir = Path(run_dir)
    recipe = settle_precision(recipe, run_dir, accelerator)
    fabric = make_fabric(recipe, accelerator)
    check_agreement(fabric, recipe)
    pack, config = Pack(data), recipe.model_config()
    sampler = StepSampler(pack, recipe, fabric.global_rank, fabric.world_size)
    if (run_dir / ABOUT).is_file():
        raise HearMwmaeError(f"{run_dir} is a pack of audio: a run needs a folder of its own")
    run_dir.mkdir(parents=True, exist_ok=True)
    alone = one_at_a_time(run_dir / LOCK, f"another process is training into {run_dir}")
    with alone if fabric.is_global_zero else nullcontext():
        state = _begin(fabric, recipe, run_dir)
        checkpoints = Checkpoints(fabric, run_dir, recipe, pack)
        checkpoints.load(state)
        if state["step"] > recipe.steps:
            raise HearMwmaeError(f"{run_dir} is {state['step']} steps on, which is more than the {recipe.steps} of the recipe")
        frontend = LogMelFrontend(config.frontend).to(fabric.device)
        read = Clips(pack, sampler.numbers)
        clips = ResidentClips(read, fabric.device, recipe.workers, fabric.is_global_zero) if recipe.resident else read
        pictured = None
        if look_every:
            pictured = log_mel_crops(frontend, collate(clips[draw] for draw in sampler[0][:PICTURED]), config.input_frames)
        span = state["step"], recipe.steps
        steps = _read(fabric, recipe, clips, sampler, frontend, state["step"])
        progress = Progress(run_dir, config, span, look_every, pictured, probed, fabric.is_global_zero)
        with closing(progress), closing(steps):  # a traceback would keep the reading processes alive
            _loop(fabric, recipe, state, steps, checkpoints, progress)
        weights = _whole_weights(state["model"].module)
        if fabric.is_global_zero:
            save_model(run_dir / "model", config, weights)
        fabric.barrier()
    return run_dir / "model"


def _begin(fabric: Fabric, recipe: Recipe, run_dir: Path) -> dict:
    """The state of a run before its first step, as a checkpoint holds it; model and optimisers are
    set up for ``fabric``.
    """
    torch.manual_seed(recipe.seed)
    weights = MaskedAutoencoder(recipe.model_config())
    if recipe.start_from != RANDOM and not newest_checkpoint(run_dir):
        start_from(weights, recipe.start_from)
    model = prepare(fabric, weights, recipe)
    optimisers = [fabric.setup_optimizers(optimiser) for optimiser in make_optimisers(model, recipe)]
    numbered = {f"optimiser{number}": optimiser for number, optimiser in enumerate(optimisers)}
    return {"model": model, **numbered, "step": 0, "seconds": 0.0, "bad_clips": 0}


def _read(
    fabric: Fabric, recipe: Recipe, clips: Clips | ResidentClips, sampler: StepSampler, frontend: LogMelFrontend, first: int
) -> Generator[tuple[int, Tensor, Tensor, int]]:
    """(step, spectrogram, mask noise, clips that could not be read) of this process's share, from
    step ``first`` on.
    """
    config = recipe.model_config()
    pinned = fabric.device.type == "cuda" and not recipe.resident
    ahead = read_batches(clips, sampler.steps(first, recipe.steps), 0 if recipe.resident else recipe.workers, pinned)
    for step, raw in enumerate(ahead, first):
        noise = mask_noise(recipe, config.num_tokens, step)[fabric.global_rank :: fabric.world_size]
        yield step, log_mel_crops(frontend, raw, config.input_frames), noise, sum(raw.bad)


def _whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of ``model`` on the CPU. With FSDP, every process has to call this."""
    state = model.state_dict().items()
    return {name: (value.full_tensor() if isinstance(value, DTensor) else value).cpu() for name, value in state}


def _loop(
    fabric: Fabric,
    recipe: Recipe,
    state: dict,
    steps: Iterator[tuple[int, Tensor, Tensor, int]],
    checkpoints: Checkpoints,
    progress: Progress,
) -> None:
    """Run the steps from ``state["step"]`` on."""
    model, optimisers = state["model"], [part for part in state.values() if isinstance(part, torch.optim.Optimizer)]
    began = time.monotonic() - state["seconds"]
    bar = tqdm(
        steps,
        "pretrain",
        recipe.steps,
        initial=state["step"],
        unit="step",
        smoothing=0.05,
        disable=not fabric.is_global_zero,
    )
    with _signals() as terminated, worker_errors():
        if state["step"]:
            progress.look(state["step"], model)  # it is missing if the run was stopped during it
        for step, spectrogram, noise, bad_here in bar:
            factor = schedule(step, recipe)
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = factor * group["initial_lr"]
            loss = train_step(fabric, model, optimisers, spectrogram, noise, recipe)
            # Every process has to stop at the same step, so they share the signal.
            told = torch.stack([loss, loss.new_tensor(float(terminated.is_set())), loss.new_tensor(float(bad_here))])
            loss, stopping, bad = cast(Tensor, fabric.all_reduce(told)).tolist()
            if not math.isfinite(loss):
                raise HearMwmaeError(f"the loss is {loss} at step {step}: lower the learning rate, or look at the data")
            bad_clips = state["bad_clips"] + round(bad * fabric.world_size)
            state |= {"step": step + 1, "seconds": time.monotonic() - began, "bad_clips": bad_clips}
            progress.step(step, loss, factor, bad_clips, state["seconds"])
            bar.set_postfix(loss=f"{loss:.4f}", **({"bad_clips": bad_clips} if bad_clips else {}), refresh=False)
            # Before a look as well: a look takes time and may fail.
            if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps or stopping or progress.is_due(step + 1):
                _check_weights(fabric, model, step)
                checkpoints.save(state)
                progress.flush()
            if stopping:
                raise SystemExit(f"stopped by a signal at step {step + 1}; the same command goes on from there")
            progress.look(step + 1, model)


def train_step(
    fabric: Fabric,
    model: _FabricModule,
    optimisers: Sequence[Any],
    spectrogram: Tensor,
    noise: Tensor,
    recipe: Recipe,
) -> Tensor:
    """One update on a process's share of a batch; returns its loss before it, ().

    Shares are equal, and each crop has equally many masked patches: the mean of the processes'
    losses is the loss of the whole.

    Args:
        spectrogram: (B, frames, mels), anywhere.
        noise: (B, tokens), which fixes the masks.
    """
    pairs = zip(spectrogram.chunk(recipe.accumulate), noise.chunk(recipe.accumulate), strict=True)
    parts = [fabric.to_device(pair) for pair in pairs]
    total = torch.zeros((), device=fabric.device)
    for number, (part, part_noise) in enumerate(parts, 1):
        with fabric.no_backward_sync(model, enabled=number < len(parts)) if len(parts) > 1 else nullcontext():
            loss = model(part, part_noise).loss / len(parts)
            fabric.backward(loss)
        total += loss.detach()
    if recipe.clip_gradient:
        # The whole gradient: Fabric's own method clips the part of each optimiser separately.
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_gradient)
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad()
    return total


def mask_noise(recipe: Recipe, num_tokens: int, step: int) -> Tensor:
    """(batch_size, num_tokens) uniform noise of the whole batch: a function of seed and step."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    return torch.rand(recipe.batch_size, num_tokens, generator=generator)


def _check_weights(fabric: Fabric, model: nn.Module, step: int) -> None:
    """HearMwmaeError if a weight is not finite: the logged loss precedes the update, and does not
    show it.
    """
    finite = all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    if cast(Tensor, fabric.all_reduce(torch.tensor(float(finite), device=fabric.device))) < 1:
        raise HearMwmaeError(f"the weights are no longer finite after step {step}: lower the learning rate, or look at the data")


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT (Ctrl-C) set, so that the loop can finish its step and save.

    Ctrl-C again aborts at once. Only a main thread may listen to signals.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    first = math.inf

    def interrupted(*_: object) -> None:
        nonlocal first
        if time.monotonic() > first + SAME_SIGNAL:
            raise KeyboardInterrupt
        if not event.is_set():
            # Not by print: the signal may have interrupted a print.
            os.write(2, b"\nstopping after this step; Ctrl-C again aborts without saving\n")
        first = min(first, time.monotonic())
        event.set()

    previous = signal.signal(signal.SIGTERM, lambda *_: event.set()), signal.signal(signal.SIGINT, interrupted)
    try:
        yield event
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), previous, strict=True):
            signal.signal(number, handler)
