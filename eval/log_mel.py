"""A HEAR module without learning, as a baseline: statistics of the normalised log-mel spectrogram
of whole clips.

    python -m eval embed --module eval.log_mel --model-options '{"pooling": "mean+std+max"}' ...

The linear probes use the same baseline.
"""

from __future__ import annotations

from torch import Tensor

from hear_mwmae.baselines import LogMelStatistics


def load_model(model_file_path: str = "", pooling: str = "mean+std") -> LogMelStatistics:
    """Nothing is loaded; ``pooling`` as of a model."""
    return LogMelStatistics(pooling)


def get_scene_embeddings(audio: Tensor, model: LogMelStatistics) -> Tensor:
    """(B, samples) -> (B, 80 * statistics of the pooling)."""
    return model(audio)
