"""Audio files -> spectrogram crops, one per clip."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from hear_mwmae.audio import find_audio, read_audio
from hear_mwmae.config import ModelConfig
from hear_mwmae.frontend import LogMelFrontend, reflect_index


def choose_files(paths: Sequence[str], per_path: int, seed: int) -> list[Path]:
    """The audio files of each path, at most ``per_path``, drawn by ``seed``; 0 takes all."""
    chosen = []
    for path in paths:
        files = find_audio([path])
        if 0 < per_path < len(files):
            files = sorted(random.Random(seed).sample(files, per_path))
        chosen += files
    return chosen


def read_crops(files: Sequence[Path], config: ModelConfig, seed: int) -> Tensor:
    """(files, input_frames, bands) float32: one crop of every file, at a place drawn by ``seed``.

    Features are normalised over the clip, as at inference. A clip shorter than a crop is continued
    by reflection.
    """
    frontend = LogMelFrontend(config.frontend)
    places = random.Random(seed)
    crops = []
    for file in files:
        features = frontend(read_audio(file, config.frontend.sample_rate)[None])[0]
        start = places.randint(0, max(len(features) - config.input_frames, 0))
        crops.append(features[reflect_index(len(features), start, start + config.input_frames)])
    return torch.stack(crops)
