"""Models that grow: they compute the same at first, and all of what is new learns."""

import dataclasses

import pytest
import torch
from click import ClickException

from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.weights import save_model
from research.grow import main


def grown(model, folder, *options) -> MaskedAutoencoder:
    main([str(model), "-o", str(folder), *options], standalone_mode=False)
    return MaskedAutoencoder.from_pretrained(str(folder))


def test_another_window(saved_model, tmp_path):
    """Nothing hears the new channel at first, and it is predicted as the first one is."""
    model = grown(saved_model, tmp_path, "--win-length", "2048")
    old = MaskedAutoencoder.from_pretrained(str(saved_model))
    spectrogram, noise = torch.randn(2, 200, 160), torch.rand(2, 250)
    ours, theirs = model(spectrogram, noise), old(spectrogram[:, :, :80], noise)
    torch.testing.assert_close(ours.latent, theirs.latent, atol=1e-5, rtol=1e-5)
    for channel in (0, 1):
        torch.testing.assert_close(ours.pred[:, :, channel::2], theirs.pred, atol=1e-5, rtol=1e-5)


def test_a_wider_encoder(saved_model, tmp_path):
    """It predicts the same at first, and every new weight learns from the second step at the
    latest.
    """
    model = grown(saved_model, tmp_path, "--heads", "3")
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


def test_fewer_decoder_blocks(small_config, tmp_path):
    decoder = dataclasses.replace(small_config.decoder, depth=2)
    deeper = dataclasses.replace(small_config, decoder=decoder)
    state = MaskedAutoencoder(deeper).state_dict()
    save_model(tmp_path / "deeper", deeper, state)
    model = grown(tmp_path / "deeper", tmp_path / "grown", "--decoder-depth", "1")
    assert model.config == small_config
    with pytest.raises(ClickException, match="Missing key"):
        grown(tmp_path / "deeper", tmp_path / "more", "--decoder-depth", "3")
    assert not (tmp_path / "more").exists()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
