"""Runs that start from other models."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import log, tiny_recipe

from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.training.fabric import make_fabric
from hear_mwmae.training.loop import begin, pretrain
from hear_mwmae.training.start import start_from
from hear_mwmae.weights import read_model, save_model


def test_start_from(data, tmp_path):
    """A run may begin with the weights of another, whatever has become of them once it has begun;
    never with other sizes.
    """
    pretrain(tiny_recipe(tmp_path, steps=2), data, tmp_path / "first")
    model = tmp_path / "first" / "model"
    still = {"base_learning_rate": 0.0, "base_muon_learning_rate": 0.0}
    recipe = tiny_recipe(tmp_path, start_from=str(model), steps=2, **still)
    pretrain(recipe, data, tmp_path / "second")
    first, second = (
        load_file(tmp_path / run / "model" / "model.safetensors") for run in ("first", "second")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    wider = recipe.model | {"decoder": {"width": 64, "depth": 1}}
    with pytest.raises(ValueError, match="another architecture"):
        pretrain(dataclasses.replace(recipe, model=wider), data, tmp_path / "third")
    shutil.rmtree(model)
    pretrain(dataclasses.replace(recipe, steps=4), data, tmp_path / "second")
    assert len(log(tmp_path / "second")) == 4


def test_start_from_nothing_is_the_embedded_model(tmp_path):
    """As everywhere that a model is named."""
    recipe = tiny_recipe(tmp_path, model=read_model("")[0].to_dict(), start_from="")
    expected = MaskedAutoencoder.from_pretrained("").state_dict()
    begun = begin(make_fabric(recipe, "cpu"), recipe, tmp_path)["model"].state_dict()
    assert all(torch.equal(value.float(), expected[name].float()) for name, value in begun.items())


def test_start_from_a_model_of_fewer_windows(saved_model):
    """Nothing hears the new channel at first, and it is predicted as the first one is."""
    config, _ = read_model(str(saved_model))
    frontend = dataclasses.replace(config.frontend, win_lengths=(400, 2048))
    torch.manual_seed(1)
    model = MaskedAutoencoder(dataclasses.replace(config, frontend=frontend))
    start_from(model, str(saved_model))
    old = MaskedAutoencoder.from_pretrained(str(saved_model))
    spectrogram, noise = torch.randn(2, 200, 160), torch.rand(2, 250)
    ours, theirs = model(spectrogram, noise), old(spectrogram[:, :, :80], noise)
    torch.testing.assert_close(ours.latent, theirs.latent, atol=1e-5, rtol=1e-5)
    for channel in (0, 1):
        torch.testing.assert_close(ours.pred[:, :, channel::2], theirs.pred, atol=1e-5, rtol=1e-5)


def test_start_from_a_model_of_a_narrower_encoder(saved_model):
    """It predicts the same at first, and every new weight learns from the second step at the
    latest.
    """
    config, _ = read_model(str(saved_model))
    encoder = dataclasses.replace(config.encoder, width=48, heads=3)
    torch.manual_seed(1)
    model = MaskedAutoencoder(dataclasses.replace(config, encoder=encoder))
    start_from(model, str(saved_model))
    old = MaskedAutoencoder.from_pretrained(str(saved_model))
    spectrogram, noise = torch.randn(2, 200, 80), torch.rand(2, 250)
    ours, theirs = model(spectrogram, noise), old(spectrogram, noise)
    torch.testing.assert_close(ours.pred, theirs.pred, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.latent[:, :, :32], theirs.latent, atol=1e-5, rtol=1e-5)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model(spectrogram, noise).loss.backward()
        optimizer.step()
    for name, parameter in model.encoder.blocks.named_parameters():
        if parameter.ndim == 2:
            grad = parameter.grad.abs()
            assert (grad.amax(0) > 0).all() and (grad.amax(1) > 0).all(), name


def test_start_from_a_model_of_more_decoder_blocks(saved_model, small_config, tmp_path):
    deeper = dataclasses.replace(
        small_config, decoder=dataclasses.replace(small_config.decoder, depth=2)
    )
    state = MaskedAutoencoder(deeper).state_dict()
    save_model(tmp_path, deeper, state)
    model = MaskedAutoencoder(small_config)
    start_from(model, str(tmp_path))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="another architecture"):
        start_from(MaskedAutoencoder(deeper), str(saved_model))
