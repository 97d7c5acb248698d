"""One model over many clips: statistics of every head, similarity of heads, and whether windows
explain it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hear_mwmae.config import ModelConfig
from hear_mwmae.mae import MaskedAutoencoder

from .maps import PARTS, head_windows, trace
from .similarity import Similarities, null_level, similarities
from .statistics import MEASURES, head_statistics, patch_distances
from .windows import across_blocks, permutation_p, window_means

#: Deals of the permutation test.
DEALS = 10_000


class View(NamedTuple):
    """A part of a model in one of its two situations."""

    part: str  #: "encoder" or "decoder"
    masked: bool

    def __str__(self) -> str:
        return f"{self.part}, {'masked' if self.masked else 'unmasked'} input"


EMBEDDING = View("encoder", False)
PRETRAINING = View("encoder", True)
DECODING = View("decoder", True)
VIEWS = (EMBEDDING, PRETRAINING, DECODING)
#: Where head outputs are compared: in the others not every token of the grid is there.
COMPARED = (EMBEDDING, DECODING)


class ByWindow(NamedTuple):
    """Similarity of heads of different blocks by their windows."""

    equal: float  #: mean PWCCA of heads of equal windows
    unequal: float
    p: float  #: of the permutation test
    draws: np.ndarray  #: (draws,) equal - unequal in bootstrap samples of the clips


@dataclass
class Measured:
    """All results of one model."""

    name: str
    config: ModelConfig
    #: measure -> (clips, blocks, heads) float64
    statistics: dict[View, dict[str, np.ndarray]] = field(default_factory=dict)
    #: of all pairs of heads; head ``n`` is head ``n % heads`` of block ``n // heads``
    similarity: dict[View, Similarities] = field(default_factory=dict)
    #: PWCCA of independent noise of the same sizes
    null: dict[View, float] = field(default_factory=dict)
    #: of views whose heads have unequal windows
    by_window: dict[View, ByWindow] = field(default_factory=dict)

    def heads(self, view: View, measure: str) -> np.ndarray:
        """(blocks, heads): means over the clips."""
        return self.statistics[view][measure].mean(axis=0)

    def windows(self, view: View) -> tuple[int, ...]:
        """Window size of every head; 0 for global heads."""
        return head_windows(self.config, view.part)


def measure(
    model: MaskedAutoencoder,
    name: str,
    clips: Tensor,
    counts: np.ndarray,
    tokens: int = 10_000,
    seed: int = 0,
    batch_size: int = 8,
) -> Measured:
    """Statistics and similarities of the heads of ``model``, on its device.

    Args:
        clips: (clips, input_frames, bands) float32, normalised.
        counts: (draws, clips) of `bootstrap_counts`.
        tokens: samples of the similarities, as many from every clip.
        seed: of masks, sampled tokens and the permutation test.
    """
    result = Measured(name, model.config)
    for masked in (False, True):
        noise = draw_noise(len(clips), model.config, seed) if masked else None
        sampled = draw_noise(len(clips), model.config, seed + 1).argsort(dim=1)
        sampled = sampled[:, : -(-tokens // len(clips))]
        outputs = _run(model, clips, noise, sampled, batch_size, result)
        for view, heads in outputs.items():
            _compare(result, view, heads, counts, seed)
    return result


def draw_noise(clips: int, config: ModelConfig, seed: int) -> Tensor:
    """(clips, tokens) uniform noise; the same for models of as many tokens."""
    return torch.rand(clips, config.num_tokens, generator=torch.Generator().manual_seed(seed))


def _run(
    model: MaskedAutoencoder,
    clips: Tensor,
    noise: Tensor | None,
    sampled: Tensor,
    batch_size: int,
    result: Measured,
) -> dict[View, np.ndarray]:
    """Fill in the statistics; returns the outputs of all heads, (blocks * heads, samples, head
    width), of the views in which they are compared.
    """
    config = model.config
    distances = patch_distances(config).to(model.encoder.pos_embed.device)
    outputs: dict[View, list[list[np.ndarray]]] = {}
    for part in PARTS if noise is not None else ("encoder",):
        view = View(part, noise is not None)
        blocks = getattr(config, part).depth
        shape = (len(clips), blocks, len(head_windows(config, part)))
        result.statistics[view] = {name: np.zeros(shape) for name in MEASURES}
        outputs[view] = [[] for _ in range(blocks)]
    for traced in trace(model, clips, noise, batch_size):
        view = View(traced.part, noise is not None)
        batch = slice(traced.first, traced.first + len(traced.maps))
        found = head_statistics(traced.maps, traced.positions, traced.visible, distances)
        for name, values in found.items():
            result.statistics[view][name][batch, traced.block] = values.cpu().numpy()
        if view in COMPARED:
            places = sampled[batch].to(traced.outputs.device) + int(config.encoder.cls_token)
            index = places[:, :, None, None].expand(-1, -1, *traced.outputs.shape[2:])
            chosen = traced.outputs.gather(1, index).flatten(0, 1)
            outputs[view][traced.block].append(chosen.transpose(0, 1).cpu().numpy())
    return {
        view: np.concatenate([np.concatenate(block, axis=1) for block in blocks])
        for view, blocks in outputs.items()
        if view in COMPARED
    }


def _compare(
    result: Measured, view: View, outputs: np.ndarray, counts: np.ndarray, seed: int
) -> None:
    _, samples, width = outputs.shape
    result.similarity[view] = similarities(outputs)
    result.null[view] = null_level(samples, width, seed=seed)
    windows = result.windows(view)
    if len(set(windows)) < 2 or len(outputs) == len(windows):  # or with a single block
        return
    pairs = across_blocks(result.similarity[view].pwcca, len(windows))
    draws = []
    for drawn in counts:
        weights = np.repeat(drawn, samples // len(drawn))
        drawn_pairs = across_blocks(similarities(outputs, weights).pwcca, len(windows))
        equal, unequal = window_means(drawn_pairs, windows)
        draws.append(equal - unequal)
    p = permutation_p(pairs, windows, DEALS, seed)
    result.by_window[view] = ByWindow(*window_means(pairs, windows), p, np.array(draws))
