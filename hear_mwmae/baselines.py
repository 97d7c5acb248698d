"""Baselines of a pretrained model: the same encoder with random weights, and statistics of its
input.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .config import FrontendConfig, ModelConfig, parse_pooling, preset
from .embedder import Embedder
from .errors import HearMwmaeError
from .frontend import LogMelFrontend
from .pooling import pool
from .weights import find_model, load_embedder, to_device

if TYPE_CHECKING:
    from .probe import Embeds


class LogMelStatistics(nn.Module):
    """Statistics over time of the normalised log-mel spectrogram of a clip, without learning.

    Args:
        pooling: as of a model: "mean", "std", "max", joined by "+".
        config: of the front-end.
    """

    def __init__(self, pooling: str = "mean+std", config: FrontendConfig | None = None) -> None:
        super().__init__()
        config = config or FrontendConfig()
        self.frontend = LogMelFrontend(config)
        self.sample_rate = config.sample_rate
        self.names = parse_pooling(pooling)
        self.scene_embedding_size = len(self.names) * config.bands

    def embed(self, clips: list[Tensor]) -> Tensor:
        """Clips (samples,) at the rate of the front-end -> (clips, bands * statistics)."""
        return torch.cat([self.scene_embeddings(clip[None]) for clip in clips])

    def scene_embeddings(self, audio: Tensor) -> Tensor:
        """(B, samples) -> (B, bands * statistics)."""
        return pool([self.frontend(audio)], self.names)


def untrained(config: ModelConfig, seed: int = 0) -> Embedder:
    """The encoder of ``config`` with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Embedder(config)


def is_baseline(source: str) -> bool:
    """Whether ``source`` is "log-mel", "untrained" (the architecture of the embedded model) or
    "untrained:PRESET".
    """
    return source in ("log-mel", "untrained") or source.startswith("untrained:")


def load_probed(source: str, pooling: str | None = None, device: str = "cpu") -> Embeds:
    """A model to probe: a baseline, or a source of ``load_embedder``.

    Args:
        source: a trained model, or the name of a baseline: see `is_baseline`.
        pooling: the model's own when None. Baselines then have the embedded model's.
    """
    if not is_baseline(source):
        return load_embedder(source, device, pooling=pooling)
    embedded = find_model().config
    pooling = pooling or embedded.pooling
    if source == "log-mel":
        return LogMelStatistics(pooling, embedded.frontend)
    name = source.partition(":")[2]
    config = preset(name) if name else embedded
    return _untrained_on(device, config, pooling)


def load_models(
    sources: dict[str, str], pooling: str | None, device: str, baselines: bool
) -> tuple[dict[str, Embeds], str]:
    """The models to compare, by name, and the one pooling of all of them.

    HearMwmaeError if no pooling is given and the trained models differ in theirs.

    Args:
        sources: see `load_probed`.
        baselines: also the first model's architecture without training, and the statistics of its
            input.
    """
    trained = {}
    for name, source in sources.items():
        if not is_baseline(source):
            trained[name] = load_embedder(source, device, pooling=pooling)
    own = {name: model.config.pooling for name, model in trained.items()}
    if len(set(own.values())) > 1:
        listed = ", ".join(f"{name}: {value}" for name, value in own.items())
        raise HearMwmaeError(f"the models' poolings differ ({listed}): give one by --pooling")
    configs = [model.config for model in trained.values()]
    first = configs[0] if configs else find_model().config
    common = pooling or first.pooling
    models: dict[str, Embeds] = {}
    for name, source in sources.items():
        models[name] = trained.get(name) or load_probed(source, common, device)
    if baselines:
        models.setdefault("untrained", _untrained_on(device, first, common))
        models.setdefault("log-mel", LogMelStatistics(common, first.frontend))
    return models, common


def _untrained_on(device: str, config: ModelConfig, pooling: str) -> Embedder:
    return to_device(untrained(dataclasses.replace(config, pooling=pooling)), device)
