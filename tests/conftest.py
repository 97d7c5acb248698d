"""Settings that must be in place before torch is imported, and fixtures shared by the tests."""

from __future__ import annotations

import os

# MKL picks its Fourier transform by processor, and their float32 roundings differ: in the nearly empty bands of a pure tone by
# 5e-3 after the logarithm, in a scene embedding by up to 3e-5. The authors' outputs were computed on the path of processors
# without AVX2 kernels of MKL's own (AMD's, for example). With this every x86 processor takes it, and parity shows to 1e-6.
os.environ["MKL_CBWR"] = "AVX"
# Nothing in the tests may reach for the network.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch

from hear_mwmae import load_model
from hear_mwmae.config import DecoderConfig, EncoderConfig, ModelConfig, derive_window_sizes
from hear_mwmae.embedder import Embedder

torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(scope="session")
def small_config() -> ModelConfig:
    """A model of the real kind, small enough to be built in every test."""
    windows = derive_window_sizes(250)
    return ModelConfig(EncoderConfig(32, 2, 2), DecoderConfig(32, 1, len(windows), window_sizes=windows))


@pytest.fixture(scope="session")
def embedded_model() -> Embedder:
    """The model that the package carries."""
    return load_model()
