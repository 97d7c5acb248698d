"""Baselines of a pretrained model: the same encoder with random weights, and statistics of its
input.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import FrontendConfig, ModelConfig, parse_pooling, preset
from .embedder import Embedder
from .errors import HearMwmaeError
from .frontend import LogMelFrontend
from .pooling import pool
from .weights import CONFIG_NAME, DEFAULT_MODEL, WEIGHTS_DIR, load_embedder, read_config, to_device

if TYPE_CHECKING:
    from .probe import Embeds

#: Frames of 10 ms between timestamps, and frames that each one sees.
STEP, WIDTH = 5, 21


class LogMelStatistics(nn.Module):
    """Statistics over time of the normalised log-mel spectrogram, behind HEAR's model interface,
    without learning.

    Scenes cover the clip. Timestamp embeddings are mean and deviation of the 200 ms around every
    50th millisecond.

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
        bands = config.bands
        self.scene_embedding_size = len(self.names) * bands
        self.timestamp_embedding_size = 2 * bands

    def embed(
        self, clips: list[Tensor], sample_rate: int | None = None, timestamps: bool = False
    ) -> Any:
        """As `Embedder.embed`, of a list of clips (samples,) at the rate of the front-end."""
        if not timestamps:
            return torch.cat([self.scene_embeddings(clip[None]) for clip in clips])
        embedded = [self.timestamp_embeddings(clip[None]) for clip in clips]
        return [steps[0] for steps, _ in embedded], [times[0] for _, times in embedded]

    def scene_embeddings(self, audio: Tensor) -> Tensor:
        """(B, samples) -> (B, bands * statistics)."""
        return pool([self.frontend(audio)], self.names)

    def timestamp_embeddings(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(B, samples) -> (B, T, 2 * bands), and (B, T) milliseconds."""
        features = self.frontend(audio).transpose(1, 2)  # (B, bands, frames)
        mean = F.avg_pool1d(features, WIDTH, STEP, WIDTH // 2, count_include_pad=False)
        square = F.avg_pool1d(features.square(), WIDTH, STEP, WIDTH // 2, count_include_pad=False)
        std = (square - mean.square()).clamp(min=0).sqrt()
        times = torch.arange(mean.shape[2], device=audio.device) * (STEP * 10.0)
        return torch.cat([mean, std], dim=1).transpose(1, 2), times.repeat(len(audio), 1)


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
    embedded = read_config(WEIGHTS_DIR / DEFAULT_MODEL / CONFIG_NAME)
    pooling = pooling or embedded.pooling
    if source == "log-mel":
        return LogMelStatistics(pooling, embedded.frontend)
    name = source.partition(":")[2]
    config = dataclasses.replace(preset(name) if name else embedded, pooling=pooling)
    return to_device(untrained(config), device)


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
    embedded = read_config(WEIGHTS_DIR / DEFAULT_MODEL / CONFIG_NAME)
    common = pooling or next(iter(own.values()), embedded.pooling)
    models: dict[str, Embeds] = {}
    for name, source in sources.items():
        models[name] = trained[name] if name in trained else load_probed(source, common, device)
    if baselines:
        first = next(iter(trained.values()), None)
        config = dataclasses.replace(first.config if first else embedded, pooling=common)
        models.setdefault("untrained", to_device(untrained(config), device))
        models.setdefault("log-mel", LogMelStatistics(common, config.frontend))
    return models, common
