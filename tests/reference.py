"""The authors' reference outputs and the rules that regenerate their inputs: see
tests/data/README.md.
"""

import dataclasses
import json
import zlib
from pathlib import Path

import numpy as np
import torch

from hear_mwmae.config import preset
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.official import convert_params

DATA = Path(__file__).parent / "data"
REFERENCE = DATA / "reference"
AUDIO = DATA / "audio"

#: label -> samples, in the order of the seeds 0..5
LENGTHS = {
    "0.50s": 8000,
    "1.07s": 17120,
    "1.99s": 31840,
    "2.00s": 32000,
    "3.37s": 53920,
    "10.00s": 160000,
}


def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of a fixture file."""
    with np.load(REFERENCE / name) as file:
        return dict(file)


def parameter(path: str, shape: tuple[int, ...], std: float = 0.02) -> np.ndarray:
    """The value of a parameter by the rule of the fixtures, in flax's shape."""
    drawn = np.random.RandomState(zlib.crc32(path.encode())).standard_normal(shape)
    values = drawn.astype("f4") * np.float32(std)
    return np.float32(1) + values if path.endswith("scale") else values


def parameters(kind: str) -> dict[str, np.ndarray]:
    """All parameters of a tiny model, by flax path."""
    shapes = json.loads((REFERENCE / f"tree_{kind}_tiny.json").read_text())["params"]
    params = {path: parameter(path, tuple(shape)) for path, shape in shapes.items()}
    for name, table in load("pos_embeds_tiny.npz").items():
        if kind == "mae":  # it has a CLS token, whose row is zero
            table = np.concatenate([np.zeros_like(table[:, :1]), table], axis=1)
        params[name] = table
    return params


def reference_model(kind: str, **changes: object) -> MaskedAutoencoder:
    """MW-MAE or MAE tiny with the parameters of the fixtures; ``changes`` are those of
    `dataclasses.replace`.
    """
    model = MaskedAutoencoder(dataclasses.replace(preset(f"{kind}-tiny"), **changes))
    model.load_state_dict(convert_params(parameters(kind)))
    return model


def spectrogram(seed: int) -> torch.Tensor:
    """(2, 200, 80) input of the feature (1234) and of the training (4321) fixtures."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((2, 200, 80)).astype("f4"))


def waveform(label: str) -> torch.Tensor:
    """(2, samples): uniform noise, and a tone with a decaying chirp."""
    samples = LENGTHS[label]
    noise = np.random.RandomState(list(LENGTHS).index(label)).uniform(-1, 1, samples)
    t = np.arange(samples) / 16000
    chirp = np.sin(2 * np.pi * (200 * t + 400 * t**2))
    tone = 0.5 * np.sin(2 * np.pi * 440 * t) + 0.4 * np.exp(-1.5 * t) * chirp
    return torch.from_numpy(np.stack([noise, tone]).astype("f4"))
