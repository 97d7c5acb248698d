"""Baselines of a pretrained model: the same encoder with random weights, and statistics of its
input.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import CONFIG_NAME, load_embedder, read_config, to_device
from ..config import FrontendConfig, ModelConfig, parse_pooling, preset
from ..embedder import Embedder
from ..frontend import LogMelFrontend
from ..weights import DEFAULT_MODEL, WEIGHTS_DIR

if TYPE_CHECKING:
    from .linear_probe import Embeds

#: Frames of 10 ms between timestamps, and frames that each one sees.
STEP, WIDTH = 5, 21


class LogMel(nn.Module):
    """Statistics over time of the normalised log-mel spectrogram, behind HEAR's model interface,
    without learning.

    Scenes cover the clip. Timestamp embeddings are mean and deviation of the 200 ms around every
    50th millisecond.

    Args:
        pooling: as of a model: "mean", "std", "max", joined by "+".
    """

    def __init__(self, pooling: str = "mean+std") -> None:
        super().__init__()
        self.frontend = LogMelFrontend(config := FrontendConfig())
        self.sample_rate = config.sample_rate
        self.names = parse_pooling(pooling)
        self.scene_embedding_size = len(self.names) * config.n_mels
        self.timestamp_embedding_size = 2 * config.n_mels

    def scene_embeddings(self, audio: Tensor) -> Tensor:
        """(B, samples) -> (B, 80 * statistics)."""
        features = self.frontend(audio)
        std, mean = torch.std_mean(features, dim=1, correction=0)
        pooled = {"mean": mean, "std": std, "max": features.amax(dim=1)}
        return torch.cat([pooled[name] for name in self.names], dim=1)

    def timestamp_embeddings(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(B, samples) -> (B, T, 160), and (B, T) milliseconds."""
        features = self.frontend(audio).transpose(1, 2)  # (B, 80, frames)
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


def load_probed(source: str, pooling: str | None = None, device: str = "cpu") -> Embeds:
    """A model to probe: a baseline, or a source of ``load_embedder``.

    Args:
        source: ``"log-mel"``, ``"untrained"`` (the embedded model's architecture),
            ``"untrained:PRESET"``, or a trained model.
        pooling: the model's own when None. Baselines then have the embedded model's.
    """
    embedded = read_config(WEIGHTS_DIR / DEFAULT_MODEL / CONFIG_NAME)
    if source == "log-mel":
        return LogMel(pooling or embedded.pooling)
    if source == "untrained" or source.startswith("untrained:"):
        config = preset(source.partition(":")[2]) if ":" in source else embedded
        return to_device(untrained(dataclasses.replace(config, pooling=pooling or embedded.pooling)), device)
    return load_embedder(source, device, pooling=pooling)
