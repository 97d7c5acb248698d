"""One model over many clips: statistics of every head, similarity of heads, and whether windows
explain it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..config import ModelConfig
from ..errors import HearMwmaeError
from ..mae import MaskedAutoencoder
from .attention_stats import MEASURES, block_statistics, patch_distances
from .maps import head_windows, trace
from .resampling import Estimate, WindowEffect, window_difference, window_effect
from .similarity import Basis, Matrices, compare, compare_across, decompose, null_level

#: Deals of the permutation test.
DEALS = 10_000


@dataclass(frozen=True)
class Settings:
    """Settings that affect the results."""

    tokens: int = 10_000  #: samples of the similarities
    draws: int = 500  #: of the bootstraps
    seed: int = 0  #: of crops, masks, sampled tokens, bootstraps and untrained models
    batch_size: int = 8
    untrained: bool = True  #: measure an untrained model of every configuration, too
    device: str = "cpu"


@dataclass(frozen=True)
class View:
    """A part of a model in one of its two situations."""

    part: str  #: "encoder" or "decoder"
    masked: bool

    def __str__(self) -> str:
        return f"{self.part}, {'masked' if self.masked else 'unmasked'} input"


#: The encoder on unmasked and on masked input; the decoder on masked input.
EMBEDDING, PRETRAINING, DECODING = View("encoder", False), View("encoder", True), View("decoder", True)
VIEWS = (EMBEDDING, PRETRAINING, DECODING)
#: Where head outputs are compared.
COMPARED = (DECODING, EMBEDDING)


@dataclass(frozen=True)
class ByWindow:
    """Similarity of heads of different blocks by their windows."""

    effect: WindowEffect
    draws: np.ndarray  #: (draws,) its difference in bootstrap samples of the clips

    @property
    def difference(self) -> Estimate:
        """Difference of equal and unequal windows, with an interval over clips."""
        return Estimate.of(self.effect.difference, self.draws)


@dataclass(frozen=True)
class HeadSimilarity:
    """All pairs of heads of a part.

    Head ``number`` is head ``number % heads`` of block ``number // heads``.
    """

    samples: int  #: tokens over all clips
    matrices: Matrices
    null: float  #: PWCCA of independent noise of these sizes
    by_window: ByWindow | None  #: None where all windows are equal, or with a single block


@dataclass
class Measured:
    """All results of one model."""

    name: str
    config: ModelConfig
    trained: bool
    statistics: dict[View, dict[str, np.ndarray]] = field(default_factory=dict)  #: measure -> (clips, blocks, heads) float64
    windows: dict[str, tuple[int, ...]] = field(default_factory=dict)  #: of the heads of a part
    similarity: dict[View, HeadSimilarity] = field(default_factory=dict)

    def heads(self, view: View, measure: str) -> np.ndarray:
        """(blocks, heads): means over the clips."""
        return self.statistics[view][measure].mean(axis=0)


def measure(
    model: MaskedAutoencoder,
    name: str,
    trained: bool,
    clips: Tensor,
    noise: Tensor,
    counts: np.ndarray,
    settings: Settings,
    progress: bool = False,
) -> Measured:
    """Statistics and similarities of the heads of ``model``, on the device of the model.

    Args:
        clips: (clips, input_frames, n_mels) float32, normalised.
        noise: (clips, tokens of the grid) masks.
        counts: (draws, clips) for the interval of the effect of windows, of
            `.resampling.bootstrap_counts`.

    Raises:
        HearMwmaeError: there are fewer samples than a head has dimensions.
    """
    result = Measured(name, model.config, trained)
    sampled = _sample_places(len(clips), model.config, settings)
    for masked in (False, True):
        statistics, outputs = _run(model, clips, noise if masked else None, sampled, settings.batch_size, progress and name)
        for view in VIEWS:
            if view.masked == masked:
                result.statistics[view] = statistics[view.part]
        result.windows = {part: head_windows(getattr(model, part).blocks[0].attn) for part in ("encoder", "decoder")}
        for view in COMPARED:
            if view.masked == masked:
                clip_of_sample = np.repeat(np.arange(len(clips)), sampled.shape[1])
                result.similarity[view] = _similarity(
                    outputs[view.part], result.windows[view.part], clip_of_sample, counts, settings.seed
                )
    return result


def _sample_places(clips: int, config: ModelConfig, settings: Settings) -> Tensor:
    """(clips, places) int64: different tokens of the grid for every clip, as many of each."""
    each = min(-(-settings.tokens // clips), config.num_tokens)
    widest = max(part.width // part.heads for part in (config.encoder, config.decoder))
    if clips * each < widest:  # said before hours go into the maps
        raise HearMwmaeError(f"{clips * each} tokens of {clips} clips are fewer than the {widest} dimensions of a head")
    order = torch.rand(clips, config.num_tokens, generator=torch.Generator().manual_seed(settings.seed)).argsort(dim=1)
    return order[:, :each]


def _run(
    model: MaskedAutoencoder, clips: Tensor, noise: Tensor | None, sampled: Tensor, batch_size: int, label: str | bool
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, list[np.ndarray]]]:
    """Of each part: statistics, measure -> (clips, blocks, heads); and of every block, outputs
    (samples, heads, head width).
    """
    distances = patch_distances(model.config, model.encoder.pos_embed.device)
    statistics: dict[str, dict[str, np.ndarray]] = {}
    outputs: dict[str, list[list[np.ndarray]]] = {}
    for part in ("encoder", "decoder"):
        blocks = getattr(model, part).blocks
        shape = (len(clips), len(blocks), len(head_windows(blocks[0].attn)))
        statistics[part] = {name: np.zeros(shape) for name in MEASURES}
        outputs[part] = [[] for _ in blocks]
    cls = int(model.config.encoder.cls_token)
    bar = tqdm(total=len(clips), desc=f"{label}, {'unmasked' if noise is None else 'masked'}", unit="clip", disable=not label)
    for block in trace(model, clips, noise, batch_size):
        batch = slice(block.first, block.first + len(block.inputs))
        for name, values in block_statistics(block, distances).items():
            statistics[block.part][name][batch, block.block] = values.cpu().numpy()
        if block.part == "decoder" or noise is None:  # elsewhere not every place of the grid is there
            places = sampled[batch].to(block.outputs.device) + cls
            index = places[:, :, None, None].expand(-1, -1, *block.outputs.shape[2:])
            outputs[block.part][block.block].append(block.outputs.gather(1, index).flatten(0, 1).cpu().numpy())
        if block.part == "decoder" and block.block == len(outputs["decoder"]) - 1:
            bar.update(len(block.inputs))
    bar.close()
    return statistics, {part: [np.concatenate(pieces) for pieces in blocks if pieces] for part, blocks in outputs.items()}


def _similarity(
    outputs: list[np.ndarray], windows: tuple[int, ...], clip_of_sample: np.ndarray, counts: np.ndarray, seed: int
) -> HeadSimilarity:
    heads, width = outputs[0].shape[1:]
    bases = [decompose(block[:, head]) for block in outputs for head in range(heads)]
    matrices = compare(bases)
    samples = len(clip_of_sample)
    null = null_level(samples, (width, width), seed=seed)
    if len(set(windows)) < 2 or len(outputs) < 2:
        return HeadSimilarity(samples, matrices, null, None)
    pairs = {
        (a, b): matrices.pwcca[a * heads : (a + 1) * heads, b * heads : (b + 1) * heads]
        for b in range(len(outputs))
        for a in range(b)
    }
    draws = [_drawn_difference(bases, heads, windows, drawn[clip_of_sample].astype(np.float64)) for drawn in counts]
    return HeadSimilarity(samples, matrices, null, ByWindow(window_effect(pairs, windows, DEALS, seed), np.array(draws)))


def _drawn_difference(bases: list[Basis], heads: int, windows: tuple[int, ...], weights: np.ndarray) -> float:
    """The effect of windows in one bootstrap sample; the pairs of blocks in one row for each but
    the last.
    """
    blocks = [bases[first : first + heads] for first in range(0, len(bases), heads)]
    pairs = []
    for number, block in enumerate(blocks[:-1]):
        later = [basis for other in blocks[number + 1 :] for basis in other]
        pairs += np.split(compare_across(block, later, weights), len(blocks) - number - 1, axis=1)
    return window_difference(np.stack(pairs), windows)
