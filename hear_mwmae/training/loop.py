"""The pretraining loop, resumable at any moment."""

import dataclasses
import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import CSVLogger
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from ..errors import HearMwmaeError, differences
from ..files import one_at_a_time
from ..frontend import LogMelFrontend
from ..mae import MaskedAutoencoder
from ..weights import DEFAULT_MODEL, save_model
from .crops import Batches, ResidentAudio, log_mel_crops, read_ahead
from .dataset import AudioDataset
from .fabric import make_fabric, prepare, settle_precision
from .optim import make_optimizers, schedule
from .recipe import RANDOM, Recipe
from .resume import Checkpoints, newest_checkpoint
from .sampler import StepSampler
from .stopping import stop_signals


def pretrain(
    recipe: Recipe,
    data: str | Path,
    run_dir: str | Path,
    accelerator: str = "auto",
) -> Path:
    """Train, or resume from the newest of ``run_dir/checkpoints``; returns the directory of the
    finished model.

    Batches and masks are functions of the seed and the step, for any number of processes. So an
    interrupted run that is started again with the same arguments ends with the same weights, bit
    for bit, as an uninterrupted one. SIGTERM and SIGINT (Ctrl-C) save a checkpoint and stop
    (SystemExit).

    Raises HearMwmaeError when the loss is no longer finite, when the checkpoint is damaged, of
    another recipe or other data, or beyond the recipe's last step, when another process trains into
    ``run_dir``, and when the model to start from is of another architecture.

    Args:
        data: a data set, see `dataset.AudioDataset`.
        accelerator: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"`` for the accelerator of this
            machine.
    """
    run_dir = Path(run_dir)
    recipe = settle_precision(recipe, accelerator)
    logger = CSVLogger(run_dir, "logs", flush_logs_every_n_steps=1)
    fabric = make_fabric(recipe, accelerator, logger)
    dataset = AudioDataset(data)
    sampler = StepSampler(dataset, recipe, fabric.global_rank, fabric.world_size)
    if (run_dir / "dataset_info.json").is_file():
        raise HearMwmaeError(f"{run_dir} is a data set: a run needs a folder of its own")
    run_dir.mkdir(parents=True, exist_ok=True)
    busy = f"another process is training into {run_dir}"
    alone = one_at_a_time(run_dir / ".lock", busy) if fabric.is_global_zero else nullcontext()
    with alone:
        state = begin(fabric, recipe, run_dir)
        checkpoints = Checkpoints(fabric, run_dir, recipe, dataset)
        checkpoints.load(state)
        first = state["step"]
        if first > recipe.steps:
            raise HearMwmaeError(
                f"{run_dir} is {first} steps on, more than the {recipe.steps} of the recipe"
            )
        if fabric.is_global_zero:
            recipe.write(run_dir / "recipe.toml")
        clips: AudioDataset | ResidentAudio = dataset
        if recipe.resident:
            shown = fabric.is_global_zero
            clips = ResidentAudio(dataset, sampler.clips, fabric.device, recipe.workers, shown)
        with closing(read_steps(fabric, recipe, clips, sampler, first)) as steps:
            train(fabric, recipe, state, steps, checkpoints)
        save_whole(fabric, recipe, state["model"], run_dir / "model")
    return run_dir / "model"


def train(
    fabric: Fabric,
    recipe: Recipe,
    state: dict[str, Any],
    steps: Iterator[tuple[int, Tensor, Tensor]],
    checkpoints: Checkpoints,
) -> None:
    """Run ``steps``; each process has its share of every batch, (B, frames, mels), and its noise.

    Shares are equal, and each crop has equally many masked patches: the mean of the processes'
    losses is the loss of the whole.
    """
    model = state["model"]
    optimizers = [value for name, value in state.items() if name.startswith("optimizer")]
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
    with stop_signals() as signalled:
        for step, spectrogram, noise in bar:
            rate = schedule(step, recipe, state["warmup_steps"])
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["initial_lr"]

            loss = torch.zeros((), device=fabric.device)
            parts = zip(
                fabric.to_device(spectrogram).chunk(recipe.accumulate),
                fabric.to_device(noise).chunk(recipe.accumulate),
                strict=True,
            )
            for number, (crops, crop_noise) in enumerate(parts, 1):
                with fabric.no_backward_sync(model, enabled=number < recipe.accumulate):
                    part_loss = model(crops, crop_noise).loss / recipe.accumulate
                    fabric.backward(part_loss)
                loss += part_loss.detach()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

            # Every process has to stop at the same step, so they share the signal.
            told = torch.stack([loss, loss.new_tensor(signalled.is_set())])
            mean_loss, stop = cast(Tensor, fabric.all_reduce(told)).tolist()
            if not math.isfinite(mean_loss):
                raise HearMwmaeError(
                    f"the loss is {mean_loss} at step {step}: "
                    "lower the learning rate, or look at the data"
                )
            done = step + 1
            state["step"] = done
            state["seconds"] = time.monotonic() - began
            log_step(fabric, step, mean_loss, optimizers, state)
            bar.set_postfix(loss=f"{mean_loss:.4f}", refresh=False)

            keep = recipe.keep_every and done % recipe.keep_every == 0
            save = stop or done % recipe.checkpoint_every == 0 or done == recipe.steps
            if keep or save:
                check_weights(fabric, model, step)
            if keep:  # before the checkpoint, behind which a resumed run begins
                save_whole(fabric, recipe, model, checkpoints.run_dir / f"model-{done}")
            if save:
                checkpoints.save(state)
            if stop:
                raise SystemExit(
                    f"stopped by a signal at step {done}; the same command goes on from there"
                )


def begin(fabric: Fabric, recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    """The state of a run before its first step, as a checkpoint holds it."""
    torch.manual_seed(recipe.seed)
    weights = MaskedAutoencoder(recipe.model_config())
    if recipe.start_from != RANDOM and not newest_checkpoint(run_dir):
        start_from(weights, recipe.start_from)
    model = prepare(fabric, weights, recipe)
    state: dict[str, Any] = {"model": model}
    for number, optimizer in enumerate(make_optimizers(model, recipe)):
        state[f"optimizer{number}"] = fabric.setup_optimizers(optimizer)
    # The warm-up stays what it was when a run is extended.
    counts = {"step": 0, "seconds": 0.0, "warmup_steps": recipe.warmup_steps}
    return state | counts


def start_from(model: MaskedAutoencoder, source: str) -> None:
    """Give ``model`` the weights of ``source``, as `load_model` takes it.

    HearMwmaeError if it is of another architecture. Masking, comparison and pooling may differ.
    """
    begun = MaskedAutoencoder.from_pretrained(source)
    wanted = model.config
    own = dataclasses.replace(
        begun.config,
        mask_ratio=wanted.mask_ratio,
        norm_pix_loss=wanted.norm_pix_loss,
        pooling=wanted.pooling,
    )
    if changes := differences(own.to_dict(), wanted.to_dict()):
        key, there, here = changes[0]
        raise HearMwmaeError(
            f"start_from: {source or DEFAULT_MODEL} is of another architecture than the recipe's: "
            f"{key} is {there}, not {here}"
        )
    model.load_state_dict(begun.state_dict())


def read_steps(
    fabric: Fabric,
    recipe: Recipe,
    clips: AudioDataset | ResidentAudio,
    sampler: StepSampler,
    first: int,
) -> Generator[tuple[int, Tensor, Tensor]]:
    """(step, spectrogram, mask noise) of this process's share, from step ``first`` on."""
    config = recipe.model_config()
    frontend = LogMelFrontend(config.frontend).to(fabric.device)
    pinned = fabric.device.type == "cuda" and not recipe.resident
    workers = 0 if recipe.resident else recipe.workers
    batches = read_ahead(Batches(clips, sampler), range(first, recipe.steps), workers, pinned)
    with closing(batches):
        for step, batch in enumerate(batches, first):
            noise = mask_noise(recipe, config.num_tokens, step)[sampler.share]
            yield step, log_mel_crops(frontend, batch, config.input_frames), noise


def mask_noise(recipe: Recipe, num_tokens: int, step: int) -> Tensor:
    """(batch_size, num_tokens) uniform noise of the whole batch: a function of seed and step."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    size = recipe.batch_size, num_tokens
    return torch.rand(size, generator=generator, dtype=torch.float32, device="cpu")


def log_step(
    fabric: Fabric, step: int, loss: float, optimizers: Sequence[Any], state: dict[str, Any]
) -> None:
    """A row of the log: the loss before update ``step``, and the rates of that update."""
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    values = dict(zip(("learning_rate", "muon_learning_rate"), rates, strict=False))
    fabric.log_dict({"loss": loss, **values, "seconds": round(state["seconds"], 1)}, step)


def check_weights(fabric: Fabric, model: nn.Module, step: int) -> None:
    """HearMwmaeError if a weight is not finite: the logged loss precedes the update, and does not
    show it.
    """
    finite = all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    told = torch.tensor(float(finite), device=fabric.device)
    if cast(Tensor, fabric.all_reduce(told)) < 1:
        raise HearMwmaeError(
            f"the weights are no longer finite after step {step}: "
            "lower the learning rate, or look at the data"
        )


def save_whole(fabric: Fabric, recipe: Recipe, model: nn.Module, folder: Path) -> None:
    """Write the model to ``folder``. Every process calls this; the first one writes."""
    weights = {}
    for name, value in cast(Any, model).module.state_dict().items():
        whole = value.full_tensor() if isinstance(value, DTensor) else value  # cut by FSDP
        weights[name] = whole.cpu()
    if fabric.is_global_zero:
        save_model(folder, recipe.model_config(), weights)
    fabric.barrier()
