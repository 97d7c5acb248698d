"""One model over many clips: distance and entropy of every head, and similarity of heads."""

from typing import NamedTuple

import numpy as np
import pandas as pd
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
#: Samples of the similarities, as many from every clip.
TOKENS = 10_000
#: Where head outputs are compared: in the other not every token of the grid is there.
COMPARED = (EMBEDDING, DECODING)


class Measured(NamedTuple):
    """A view of a model."""

    #: A row per head: block and head (from 1), its window in tokens (0: global), and the means of
    #: `head_statistics` over the clips.
    heads: pd.DataFrame
    #: Symmetric, of all pairs of these rows; None where outputs are not compared.
    pwcca: np.ndarray | None = None
    noise: float | None = None  #: PWCCA of independent noise of the same sizes


def draw_noise(clips: int, config: ModelConfig, seed: int) -> Tensor:
    """(clips, tokens) uniform noise; the same for models of as many tokens."""
    return torch.rand(clips, config.num_tokens, generator=torch.Generator().manual_seed(seed))


def measure(model: MaskedAutoencoder, view: View, clips: Tensor) -> Measured:
    """Statistics and similarities of the heads of ``model``, on its device.

    Args:
        clips: (clips, input_frames, bands) float32, normalised.
    """
    config = model.config
    windows = head_windows(config, view.part)
    depth = getattr(config, view.part).depth
    distances = patch_distances(config).to(clips.device)
    noise = draw_noise(len(clips), config, 0).to(clips.device) if view.masked else None
    places = draw_noise(len(clips), config, 1).argsort(dim=1).to(clips.device)
    places = places[:, : -(-TOKENS // len(clips))] + int(config.encoder.cls_token)
    found: list[list[Tensor]] = [[] for _ in range(depth)]
    sampled: list[list[Tensor]] = [[] for _ in range(depth)]
    for one in trace(model, view.part, clips, noise):
        values = head_statistics(one.maps, one.positions, one.visible, distances)
        found[one.block].append(torch.stack(list(values.values())))
        if view in COMPARED:
            index = places[one.first : one.first + len(one.outputs), :, None, None]
            chosen = one.outputs.take_along_dim(index, dim=1)
            sampled[one.block].append(chosen.flatten(0, 1).transpose(0, 1))
    tables = []
    for block, batches in enumerate(found, 1):
        means = torch.cat(batches, dim=1).double().mean(dim=1).cpu().numpy()
        row = {"block": block, "head": range(1, len(windows) + 1), "window": windows}
        tables.append(pd.DataFrame(row | dict(zip(MEASURES, means, strict=True))))
    heads = pd.concat(tables, ignore_index=True)
    if view not in COMPARED:
        return Measured(heads)
    outputs = torch.cat([torch.cat(block, dim=1) for block in sampled])
    return Measured(heads, pwcca(outputs.cpu().numpy()), null_level(*outputs.shape[1:]))


def by_window(found: Measured) -> dict[str, float]:
    """Mean PWCCA of heads of equal windows and of unequal ones, in different blocks; NaN where
    there are none.
    """
    block, window = (found.heads[name].to_numpy() for name in ("block", "window"))
    apart = block[:, None] != block
    equal = window[:, None] == window
    means = {}
    for name, pairs in (("equal", apart & equal), ("unequal", apart & ~equal)):
        means[name] = found.pwcca[pairs].mean() if pairs.any() else np.nan
    return means | {"difference": means["equal"] - means["unequal"]}
