"""Front-ends of several windows: one input channel for each."""

import dataclasses

import pytest
import torch
from test_hear_api import noise, tone

from hear_mwmae.config import FrontendConfig, ModelConfig
from hear_mwmae.frontend import LogMelFrontend
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.patches import patchify, unpatchify
from hear_mwmae.weights import load_embedder, save_model

TWO = FrontendConfig(win_lengths=(400, 2048))


@pytest.fixture(scope="module")
def config(small_config) -> ModelConfig:
    return dataclasses.replace(small_config, frontend=TWO)


@pytest.mark.parametrize("samples", [1, 1023, 53920])
def test_each_channel_is_the_front_end_of_its_window(samples):
    audio = torch.stack([noise(samples), tone(samples)])
    both = LogMelFrontend(TWO)(audio)
    assert both.shape == (2, samples // 160 + 1, 160)
    for number, win_length in enumerate(TWO.win_lengths):
        alone = LogMelFrontend(dataclasses.replace(TWO, win_lengths=(win_length,)))
        assert torch.equal(both[:, :, 80 * number : 80 * (number + 1)], alone(audio))
    assert torch.isfinite(both).all()
    for level in (0.0, 1e-3, -0.5):  # silence, and constants
        assert not LogMelFrontend(TWO)(torch.full((1, samples), level)).any()


def test_patches_hold_the_same_place_of_every_channel():
    spectrogram = torch.randn(2, 200, 160)
    patches = patchify(spectrogram, (4, 16), 2)
    assert patches.shape == (2, 250, 128)
    assert torch.equal(unpatchify(patches, (4, 16), (50, 5), 2), spectrogram)
    for channel in range(2):
        alone = patchify(spectrogram[:, :, 80 * channel : 80 * (channel + 1)], (4, 16))
        assert torch.equal(patches[:, :, channel::2], alone)


def test_such_a_model_is_trained_saved_and_loaded(config, tmp_path):
    torch.manual_seed(0)
    autoencoder = MaskedAutoencoder(config)
    assert autoencoder(torch.randn(2, 200, 160)).pred.shape == (2, 250, 128)
    save_model(tmp_path / "model", config, autoencoder.state_dict())
    model = load_embedder(tmp_path / "model")
    assert model.config.frontend.win_lengths == (400, 2048)
    steps, times = model(noise(40000)[None], timestamps=True)
    assert steps.isfinite().all() and steps.shape[1] == times.shape[1]
