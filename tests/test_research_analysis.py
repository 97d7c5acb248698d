"""The analysis of the paper: maps held to the model, statistics and similarities with known
answers.
"""

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
def test_outputs_of_the_heads_lead_to_those_of_the_model(name, part):
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
    assert not any(module._forward_pre_hooks for module in model.modules())


#: The paper's grid: 50 steps of 40 ms, 5 bands.
PAPER = ModelConfig(EncoderConfig(32, 1, 1))


def statistics(maps: torch.Tensor, positions: torch.Tensor) -> dict[str, float]:
    """Of one head's map (sequence, sequence) on the paper's grid."""
    visible = torch.ones(1, len(maps), len(maps), dtype=torch.bool)
    found = head_statistics(maps[None, None], positions[None], visible, patch_distances(PAPER))
    return {name: value.item() for name, value in found.items()}


def test_uniform_attention():
    found = statistics(torch.full((250, 250), 1 / 250), torch.arange(250))
    places = [(token // 5, token % 5) for token in range(250)]
    expected = sum(math.dist(a, b) for a in places for b in places) / 250**2
    assert found["distance"] == pytest.approx(expected, rel=1e-4)
    assert found["distance_uniform"] == pytest.approx(expected, rel=1e-4)
    assert found["entropy"] == pytest.approx(1, rel=1e-4)


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


def test_similarity_is_that_of_the_formula():
    """Of sets that are not centred, of rank 2 in three dimensions, whose canonical variates, their
    correlations and their weights (alpha) are known.
    """
    random = np.random.default_rng(0).standard_normal((300, 4))
    q, _ = np.linalg.qr(random - random.mean(axis=0))
    rho = np.array([0.9, 0.4])
    variates_x, variates_y = q[:, :2], q[:, :2] * rho + q[:, 2:] * np.sqrt(1 - rho**2)
    x = variates_x @ [[3, -3, 3], [0, 1, 0]] + 5
    y = variates_y @ [[1, 0, 0], [0, 2, -2]] - 5
    expected = ((9 * 0.9 + 1 * 0.4) / 10 + (1 * 0.9 + 4 * 0.4) / 5) / 2
    np.testing.assert_allclose(pwcca(np.stack([x, y])), [[1, expected], [expected, 1]], atol=1e-6)


@torch.no_grad()
def test_measured_similarities_are_those_of_the_heads_outputs(monkeypatch):
    """With every token as a sample, so that nothing is drawn, and two windows of the front-end."""
    config = dataclasses.replace(SMALL, frontend=FrontendConfig(win_lengths=(400, 800), n_mels=32))
    model, clips = build(config), torch.randn(3, 48, 64)
    for view, mask in ((DECODING, draw_noise(3, config, 0)), (EMBEDDING, None)):
        traced = list(trace(model, view.part, clips, mask))
        with monkeypatch.context() as patch:
            patch.setattr(maps, "BATCH", 2)
            found = measure(model, view, clips)
        outputs = torch.cat([one.outputs.flatten(0, 1).transpose(0, 1) for one in traced])
        np.testing.assert_allclose(found.pwcca, pwcca(outputs.numpy()), atol=1e-4)
        windows = head_windows(config, view.part)
        assert list(found.heads["block"]) == [1] * len(windows) + [2] * len(windows)
        assert tuple(found.heads["window"]) == 2 * windows


def test_heads_of_equal_windows_are_compared_across_blocks():
    """1 in the place of every pair of heads of different blocks and equal windows."""
    similarity = np.full((6, 6), 7.0)
    similarity[:3, 3:] = similarity[3:, :3] = np.eye(3)
    heads = pd.DataFrame({"block": [1, 1, 1, 2, 2, 2], "window": [2, 4, 0] * 2})
    assert by_window(Measured(heads, similarity)) == {"equal": 1, "unequal": 0, "difference": 1}
