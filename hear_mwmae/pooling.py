"""The time steps of a clip: how they are pooled into its scene embedding, and their timestamps."""

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from .config import ModelConfig


class Moments(NamedTuple):
    """Statistics of clips over their time steps, (clips, D) each."""

    steps: int
    mean: Tensor
    variance: Tensor  #: of the population
    maximum: Tensor


def pool(pieces: Iterable[Tensor], statistics: tuple[str, ...]) -> Tensor:
    """Pieces of the same clips, one after another in time, (clips, time steps, D) each -> (clips, D
    * statistics): the statistics over all time steps, side by side.

    Args:
        statistics: any of "mean", "std" (of the population) and "max", from `config.parse_pooling`.
    """
    whole = reduce(_joined, map(_moments, pieces))
    pooled = []
    for name in statistics:
        if name == "mean":
            pooled.append(whole.mean)
        elif name == "std":
            # The root's gradient at 0, where nothing changes over time, would be infinite.
            still = whole.variance <= 0
            pooled.append(torch.where(still, 1, whole.variance).sqrt() * ~still)
        elif name == "max":
            pooled.append(whole.maximum)
        else:
            raise NotImplementedError(name)
    return torch.cat(pooled, dim=1)


def _moments(piece: Tensor) -> Moments:
    variance = piece.var(dim=1, correction=0)
    return Moments(piece.shape[1], piece.mean(dim=1), variance, piece.amax(dim=1))


def _joined(first: Moments, second: Moments) -> Moments:
    """Of both pieces: the variance is that inside the pieces, and that between their means. No term
    is below 0, so nothing cancels.
    """
    steps = first.steps + second.steps
    share = second.steps / steps
    change = second.mean - first.mean
    inside = torch.lerp(first.variance, second.variance, share)
    return Moments(
        steps,
        first.mean + share * change,
        inside + share * (1 - share) * change.square(),
        torch.maximum(first.maximum, second.maximum),
    )


def count_time_steps(config: ModelConfig, samples: int) -> int:
    """Time steps that hold frames of a clip; all of them are pooled."""
    return (config.frontend.frames(samples) + config.patch_size[0] - 1) // config.patch_size[0]


def time_step_ms(config: ModelConfig, samples: int, kind: str) -> Tensor:
    """The timestamps of a clip's time steps: (T,) float32 milliseconds, on the CPU.

    Args:
        samples: of the clip; a symbol when a model is exported.
        kind: "centred", the middles of the time steps, within the audio: a last step with its
            centre beyond the end is left out, and a clip too short for one has one timestamp, at
            its middle. "official", the authors' i * duration / T.
    """
    # In float64, so that nothing drifts over hours; on the CPU, because not every device has it.
    length = torch.full((1,), samples, dtype=torch.float64, device="cpu")
    rate = float(config.frontend.sample_rate)
    if kind == "official":
        total = count_time_steps(config, samples)
        steps = torch.arange(total, device="cpu").double()
        return (steps * (length * 1000.0 / rate) / total).float()
    # In half samples, which are whole numbers: a centre that falls on the end of the audio stays.
    # Frame f is centred at f * hop, so step i at (2 i patch + patch - 1) hop half samples.
    patch, hop = config.patch_size[0], config.frontend.hop_length
    count = torch.sym_max((2 * samples + (patch + 1) * hop) // (2 * patch * hop), 1)
    centres = (torch.arange(count, device="cpu") * (2 * patch) + (patch - 1)) * hop
    return (torch.where(centres <= 2 * length, centres, length) * 500.0 / rate).float()
