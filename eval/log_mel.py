"""A HEAR module without any learning, to measure models against: statistics of the normalised log-mel spectrogram.

    python -m eval embed --module eval.log_mel ...

Scenes are mean and deviation over the clip; timestamps are the same over the 200 ms around every 50th millisecond.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hear_mwmae.config import FrontendConfig
from hear_mwmae.frontend import LogMelFrontend

#: Frames of 10 ms between timestamps, and frames that each one sees.
STEP, WIDTH = 5, 21


class LogMel(nn.Module):
    """What the HEAR API wants to know of a model."""

    sample_rate = 16000
    scene_embedding_size = timestamp_embedding_size = 160

    def __init__(self) -> None:
        super().__init__()
        self.frontend = LogMelFrontend(FrontendConfig())


def load_model(model_file_path: str = "") -> LogMel:
    """There is nothing to load."""
    return LogMel()


def get_scene_embeddings(audio: Tensor, model: LogMel) -> Tensor:
    """(B, samples) -> (B, 160)."""
    std, mean = torch.std_mean(model.frontend(audio), dim=1, correction=0)
    return torch.cat([mean, std], dim=1)


def get_timestamp_embeddings(audio: Tensor, model: LogMel) -> tuple[Tensor, Tensor]:
    """(B, samples) -> (B, T, 160), and (B, T) milliseconds."""
    features = model.frontend(audio).transpose(1, 2)  # (B, 80, frames)
    mean = F.avg_pool1d(features, WIDTH, STEP, WIDTH // 2, count_include_pad=False)
    square = F.avg_pool1d(features.square(), WIDTH, STEP, WIDTH // 2, count_include_pad=False)
    std = (square - mean.square()).clamp(min=0).sqrt()
    times = torch.arange(mean.shape[2], device=audio.device) * (STEP * 10.0)
    return torch.cat([mean, std], dim=1).transpose(1, 2), times.repeat(len(audio), 1)
