"""One model over many clips: statistics of every head, and similarity of heads."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hear_mwmae.config import ModelConfig
from hear_mwmae.mae import MaskedAutoencoder

from .maps import head_windows, trace
from .similarity import null_level, pwcca
from .statistics import MEASURES, head_statistics, patch_distances


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
#: Where head outputs are compared: in the other not every token of the grid is there.
COMPARED = (EMBEDDING, DECODING)


@dataclass
class Measured:
    """All results of one model."""

    name: str
    config: ModelConfig
    #: measure -> (clips, blocks, heads)
    statistics: dict[View, dict[str, np.ndarray]] = field(default_factory=dict)
    #: symmetric, of all pairs of heads; head ``n`` is head ``n % heads`` of block ``n // heads``
    pwcca: dict[View, np.ndarray] = field(default_factory=dict)
    #: PWCCA of independent noise of the same sizes
    null: dict[View, float] = field(default_factory=dict)

    def heads(self, view: View, measure: str) -> np.ndarray:
        """(blocks, heads): means over the clips."""
        return self.statistics[view][measure].mean(axis=0)

    def windows(self, view: View) -> tuple[int, ...]:
        """Window size of every head; 0 for global heads."""
        return head_windows(self.config, view.part)

    def by_window(self, view: View) -> tuple[float, float]:
        """Mean PWCCA of heads of equal windows in different blocks, and of those of unequal ones;
        NaN where there are none.
        """
        windows = np.array(self.windows(view))
        number = np.arange(len(self.pwcca[view]))
        block, head = number // len(windows), number % len(windows)
        apart = block[:, None] != block
        equal = windows[head][:, None] == windows[head]
        pairs = self.pwcca[view][apart & equal], self.pwcca[view][apart & ~equal]
        first, second = (float(some.mean()) if some.size else float("nan") for some in pairs)
        return first, second


def draw_noise(clips: int, config: ModelConfig, seed: int) -> Tensor:
    """(clips, tokens) uniform noise; the same for models of as many tokens."""
    return torch.rand(clips, config.num_tokens, generator=torch.Generator().manual_seed(seed))


def measure(
    model: MaskedAutoencoder, name: str, clips: Tensor, tokens: int = 10_000, seed: int = 0
) -> Measured:
    """Statistics and similarities of the heads of ``model``, on its device.

    Args:
        clips: (clips, input_frames, bands) float32, normalised.
        tokens: samples of the similarities, as many from every clip.
        seed: of masks and sampled tokens.
    """
    result = Measured(name, model.config)
    device = model.encoder.pos_embed.device
    distances = patch_distances(model.config).to(device)
    places = draw_noise(len(clips), model.config, seed + 1).argsort(dim=1)
    places = places[:, : -(-tokens // len(clips))] + int(model.config.encoder.cls_token)
    for view in VIEWS:
        noise = draw_noise(len(clips), model.config, seed) if view.masked else None
        depth = getattr(model.config, view.part).depth
        found: list[list[Tensor]] = [[] for _ in range(depth)]
        sampled: list[list[Tensor]] = [[] for _ in range(depth)]
        for one in trace(model, view.part, clips, noise):
            values = head_statistics(one.maps, one.positions, one.visible, distances)
            found[one.block].append(torch.stack(list(values.values())))
            if view in COMPARED:
                index = places[one.first : one.first + len(one.outputs), :, None, None].to(device)
                chosen = one.outputs.take_along_dim(index, dim=1)
                sampled[one.block].append(chosen.flatten(0, 1).transpose(0, 1))
        every = torch.stack([torch.cat(block, dim=1) for block in found], dim=2)
        result.statistics[view] = dict(zip(MEASURES, every.double().cpu().numpy(), strict=True))
        if view in COMPARED:
            outputs = torch.cat([torch.cat(block, dim=1) for block in sampled])
            weighted = pwcca(outputs.cpu().numpy())
            result.pwcca[view] = (weighted + weighted.T) / 2
            result.null[view] = null_level(*outputs.shape[1:])
    return result
