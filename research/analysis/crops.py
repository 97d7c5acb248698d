"""Audio files -> spectrogram crops, one per clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..audio import find_audio, read_audio
from ..config import ModelConfig
from ..errors import HearMwmaeError
from ..frontend import LogMelFrontend, normalise, reflect_pad


def choose_files(paths: Sequence[str], per_path: int, seed: int) -> list[Path]:
    """The audio files of each path, at most ``per_path`` of them, drawn by ``seed``; 0
    takes all.
    """
    chosen = []
    for path in paths:
        files = find_audio([path])
        if 0 < per_path < len(files):
            picked = np.random.default_rng(seed).permutation(len(files))[:per_path]
            files = [files[number] for number in sorted(picked)]
        chosen += files
    return chosen


def read_crops(files: Sequence[Path], config: ModelConfig, seed: int) -> Tensor:
    """(files, input_frames, n_mels) float32: one crop of every file, at a place drawn by ``seed``.

    Features are normalised over the clip, as at inference. A clip shorter than a crop is continued
    by reflection.

    Raises HearMwmaeError if a file cannot be read.
    """
    if not files:
        raise HearMwmaeError("no audio files to analyse")
    frontend, rng = LogMelFrontend(config.frontend), np.random.default_rng(seed)
    crops = []
    for file in files:
        features = normalise(frontend.log_mel(read_audio(file, config.frontend.sample_rate)[None]), unbiased=True)
        spare = features.shape[1] - config.input_frames
        start = int(rng.integers(max(spare, 0) + 1))
        crops.append(reflect_pad(features, 0, max(-spare, 0))[0, start : start + config.input_frames])
    return torch.stack(crops)
