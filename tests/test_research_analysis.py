"""The analysis of the paper: maps held to the model, statistics and similarities with known
answers.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch

from hear_mwmae.config import DecoderConfig, EncoderConfig, FrontendConfig, ModelConfig
from hear_mwmae.mae import MaskedAutoencoder
from research.analysis import maps
from research.analysis.maps import CLS, head_windows, trace
from research.analysis.measure import DECODING, EMBEDDING, Measured, by_window, draw_noise, measure
from research.analysis.similarity import pwcca
from research.analysis.statistics import head_statistics, patch_distances

#: A grid of 12 time steps x 2 bands, 24 tokens, of which pretraining keeps 12.
SMALL = ModelConfig(
    EncoderConfig(16, 2, 2),
    DecoderConfig(24, 2, 6, window_sizes=(2, 3, 4, 6, 12, 0)),
    FrontendConfig(n_mels=32),
    input_frames=48,
    mask_ratio=0.5,
)
SHIFTED = EncoderConfig(16, 2, 4, window_sizes=(0, 4, 2, 6), shift_windows=True)
PLAIN = {"encoder": EncoderConfig(16, 2, 2, cls_token=True), "decoder": DecoderConfig(24, 2, 6)}
MODELS = {
    "windows in the decoder": SMALL,
    "shifted windows in both": dataclasses.replace(
        SMALL, encoder=SHIFTED, decoder=dataclasses.replace(SMALL.decoder, shift_windows=True)
    ),
    "plain, with CLS": dataclasses.replace(SMALL, **PLAIN),
}


def build(config: ModelConfig) -> MaskedAutoencoder:
    """With weights large enough for attention that is far from uniform."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(config).eval()
    for name, value in model.named_parameters():
        if "qkv.weight" in name:
            torch.nn.init.normal_(value, std=0.5)
        if "bias_table" in name:
            torch.nn.init.normal_(value)
    return model


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_outputs_of_the_heads_lead_to_those_of_the_model(name, part, monkeypatch):
    model, clips, noise = build(MODELS[name]), torch.randn(3, 48, 32), torch.rand(3, 24)
    seen = []
    blocks = getattr(model, part).blocks
    handles = [b.attn.register_forward_hook(lambda m, args, y: seen.append(y)) for b in blocks]
    model(clips, noise)
    for handle in handles:
        handle.remove()
    traced = list(trace(model, part, clips, noise))
    for one, block, expected in zip(traced, blocks, seen, strict=True):
        torch.testing.assert_close(block.attn.proj(one.outputs.flatten(2)), expected)
        torch.testing.assert_close(one.maps.sum(dim=-1), torch.ones(one.maps.shape[:3]))
        assert not one.maps[:, ~one.visible].any()
        assert one.maps[:, one.visible].gt(0).all()
        assert one.maps.std() > 0.05  # no uniform attention, which would hide a mistake in order
    monkeypatch.setattr(maps, "BATCH", 2)
    in_batches = list(trace(model, part, clips, noise))
    assert [one.first for one in in_batches] == [0, 0, 2, 2]
    both = torch.cat([in_batches[0].maps, in_batches[2].maps])
    torch.testing.assert_close(both, traced[0].maps, atol=1e-5, rtol=1e-4)
    assert not any(module._forward_pre_hooks for module in model.modules())


#: The paper's grid: 50 steps of 40 ms, 5 bands.
PAPER = ModelConfig(EncoderConfig(32, 1, 1))


def statistics(maps: torch.Tensor, positions: torch.Tensor) -> dict[str, float]:
    """Of one head's map (sequence, sequence) on the paper's grid."""
    visible = torch.ones(1, len(maps), len(maps), dtype=torch.bool)
    found = head_statistics(maps[None, None], positions[None], visible, patch_distances(PAPER))
    return {name: value.item() for name, value in found.items()}


def test_uniform_attention_and_attention_to_one_key():
    found = statistics(torch.full((250, 250), 1 / 250), torch.arange(250))
    places = [(token // 5, token % 5) for token in range(250)]
    expected = sum(math.dist(a, b) for a in places for b in places) / 250**2
    assert found["distance"] == pytest.approx(expected, rel=1e-4)
    assert found["distance_uniform"] == pytest.approx(expected, rel=1e-4)
    assert found["entropy"] == pytest.approx(1, rel=1e-4)
    maps = torch.zeros(250, 250)
    maps[:, 249] = 1  # step 49, band 4
    found = statistics(maps, torch.arange(250))
    expected = sum(math.hypot(49 - t // 5, 4 - t % 5) for t in range(250)) / 250
    assert found["distance"] == pytest.approx(expected, rel=1e-5)
    assert found["entropy"] == 0


def test_kept_tokens_are_as_far_as_they_were_on_the_grid_and_cls_is_left_out():
    # Steps 49, 0 and 0, bands 0, 0 and 4. Each attends to the next.
    maps = torch.eye(3).roll(1, 1)
    expected = (49 + 4 + math.hypot(49, 4)) / 3
    assert statistics(maps, torch.tensor([245, 0, 4]))["distance"] == pytest.approx(expected)
    share = torch.tensor([0.0, 0.1, 0.5, 0.9])[:, None]  # of CLS
    with_cls = share.expand(4, 4).clone()
    with_cls[1:, 1:] = maps * (1 - share[1:])
    found = statistics(with_cls, torch.tensor([CLS, 245, 0, 4]))
    assert found["distance"] == pytest.approx(expected)
    assert found["entropy"] == pytest.approx(0, abs=1e-6)


def reference_pwcca(x: np.ndarray, y: np.ndarray) -> float:
    """From the formulas of Morcos et al., through numpy's SVD of covariances."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)

    def inverse_root(covariance: np.ndarray) -> np.ndarray:
        u, s, _ = np.linalg.svd(covariance)
        kept = s > 1e-12 * s[0]
        return u[:, kept] / np.sqrt(s[kept]) @ u[:, kept].T

    rank = min(np.linalg.matrix_rank(x), np.linalg.matrix_rank(y))
    whiten_x, whiten_y = inverse_root(x.T @ x), inverse_root(y.T @ y)
    u, rho, _ = np.linalg.svd(whiten_x @ (x.T @ y) @ whiten_y)
    alphas = np.abs((x @ whiten_x @ u[:, :rank]).T @ x).sum(axis=1)
    return float(alphas @ rho[:rank] / alphas.sum())


def related(rng: np.random.Generator, sets: int) -> np.ndarray:
    """Activations (sets, 300, 6) of a common part, with directions of different sizes, not
    centred; the last set has a rank of 4.
    """
    common = rng.standard_normal((300, 3)) @ rng.standard_normal((sets, 3, 6))
    x = (common + rng.standard_normal((sets, 300, 6))) * np.geomspace(10, 0.1, 6) + 3
    x[-1, :, 4:] = x[-1, :, :2] @ rng.standard_normal((2, 2))
    return x


def test_similarities_are_those_of_the_formula():
    x = related(np.random.default_rng(0), 4)
    expected = np.array([[reference_pwcca(a, b) for b in x] for a in x])
    assert np.abs(expected - expected.T).max() > 1e-3  # both directions count
    np.testing.assert_allclose(pwcca(x), (expected + expected.T) / 2, atol=1e-6)


@torch.no_grad()
def test_measured_similarities_are_those_of_the_heads_outputs():
    """With every token as a sample, so that nothing is drawn, and two windows of the front-end."""
    config = dataclasses.replace(SMALL, frontend=FrontendConfig(win_lengths=(400, 800), n_mels=32))
    model, clips = build(config), torch.randn(3, 48, 64)
    noise = draw_noise(3, config, 0)
    for view, mask in ((DECODING, noise), (EMBEDDING, None)):
        found = measure(model, view, clips)
        first, last = (one.outputs for one in trace(model, view.part, clips, mask))
        heads = len(head_windows(config, view.part))
        a, b = (x[:, :, 1].flatten(0, 1).double().numpy() for x in (first, last))
        both = (reference_pwcca(a, b) + reference_pwcca(b, a)) / 2
        assert found.pwcca[1, heads + 1] == pytest.approx(both, abs=1e-4)
        assert list(found.heads["block"]) == [1] * heads + [2] * heads
        assert tuple(found.heads["window"][:heads]) == head_windows(config, view.part)


def test_heads_of_equal_windows_are_compared_across_blocks():
    """1 in the place of every pair of heads of different blocks and equal windows."""
    similarity = np.full((6, 6), 7.0)
    similarity[:3, 3:] = similarity[3:, :3] = np.eye(3)
    heads = pd.DataFrame({"block": [1, 1, 1, 2, 2, 2], "window": [2, 4, 0] * 2})
    found = by_window(Measured(heads, similarity))
    assert found == {"equal": 1, "unequal": 0, "difference": 1}
