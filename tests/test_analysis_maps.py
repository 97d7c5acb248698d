"""Attention maps held to the fast path, and the statistics of maps with known answers."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from hear_mwmae.analysis.attention_stats import MEASURES, block_statistics, head_statistics, patch_distances
from hear_mwmae.analysis.maps import CLS, attention_maps, head_windows, trace, visible_keys
from hear_mwmae.attention import MultiWindowAttention, SelfAttention
from hear_mwmae.config import DecoderConfig, EncoderConfig, FrontendConfig, ModelConfig
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.mae import MaskedAutoencoder

#: A grid of 12 time steps x 2 bands, 24 tokens, of which pretraining keeps 12.
SMALL = ModelConfig(
    EncoderConfig(16, 2, 2),
    DecoderConfig(24, 2, 6, window_sizes=(2, 3, 4, 6, 12, 0)),
    FrontendConfig(n_mels=32),
    input_frames=48,
    mask_ratio=0.5,
)
MODELS = {
    "windows in the decoder": SMALL,
    "shifted": dataclasses.replace(SMALL, decoder=dataclasses.replace(SMALL.decoder, shift_windows=True)),
    "windows in both": dataclasses.replace(SMALL, encoder=EncoderConfig(16, 2, 4, window_sizes=(0, 4, 2, 6), shift_windows=True)),
    "plain, with CLS": dataclasses.replace(
        SMALL, encoder=EncoderConfig(16, 2, 2, cls_token=True), decoder=DecoderConfig(24, 2, 6)
    ),
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


def spectrograms(count: int) -> torch.Tensor:
    return torch.randn(count, 48, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_maps_give_the_outputs_of_the_fast_path(name, masked):
    model, clips = build(MODELS[name]), spectrograms(3)
    noise = torch.rand(3, 24) if masked else None
    blocks = list(trace(model, clips, noise))
    assert [(block.part, block.block) for block in blocks] == [(p, n) for p in ("encoder", "decoder") for n in range(2)]
    for block in blocks:
        maps = block.maps()
        heads, length = len(head_windows(block.attention)), block.inputs.shape[1]
        assert maps.shape == (3, heads, length, length)
        *_, values = block.attention.qkv(block.inputs).unflatten(-1, (3, heads, -1)).unbind(2)
        torch.testing.assert_close(torch.einsum("bhqk,bkhd->bqhd", maps, values), block.outputs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(block.attention.proj(block.outputs.flatten(2)), block.attention(block.inputs))
        torch.testing.assert_close(maps.sum(dim=-1), torch.ones(3, heads, length))
        visible = visible_keys(block.attention, length)
        assert not maps[:, ~visible].any() and maps[:, visible].gt(0).all()
        assert maps.std() > 0.05  # no uniform attention, which would hide a mistake in the order


@torch.no_grad()
def test_what_is_recorded_is_the_models_own_run():
    """The last decoder block's recorded outputs lead to the very prediction."""
    model, clips, noise = build(SMALL), spectrograms(2), torch.rand(2, 24)
    predicted = model(clips, noise).pred
    seen = {}
    handle = model.decoder.blocks[-1].attn.register_forward_hook(lambda module, args, y: seen.update(y=y))
    model(clips, noise)
    handle.remove()
    last = list(trace(model, clips, noise))[-1]
    torch.testing.assert_close(last.attention.proj(last.outputs.flatten(2)), seen["y"])
    torch.testing.assert_close(model(clips, noise).pred, predicted)  # and it leaves the model as it was
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("shift", [False, True])
def test_visible_keys_are_those_of_the_window(shift):
    module = MultiWindowAttention(16, (4, 0), shift)
    visible = visible_keys(module, 12)
    assert visible[1].all()
    for query in range(12):
        if not shift:
            expected = [key for key in range(12) if key // 4 == query // 4]
        else:  # windows begin at token 2; what is left at the start and at the end does not see each other
            expected = [key for key in range(12) if (key - 2) // 4 == (query - 2) // 4]
        assert visible[0, query].nonzero().flatten().tolist() == expected
    assert visible_keys(SelfAttention(16, 2), 5).all()


@pytest.mark.parametrize("name", ["windows in the decoder", "plain, with CLS"])
def test_places_on_the_grid(name):
    model, noise = build(MODELS[name]), torch.rand(2, 24)
    kept = noise.argsort(dim=1)[:, :12]
    cls = torch.full((2, int(name == "plain, with CLS")), CLS)
    grid = torch.arange(24).repeat(2, 1)
    places = {block.part: block.positions for block in trace(model, spectrograms(2), noise)}
    assert places["encoder"].equal(torch.cat([cls, kept], dim=1)) and places["decoder"].equal(torch.cat([cls, grid], dim=1))
    places = {block.part: block.positions for block in trace(model, spectrograms(2))}
    assert all(place.equal(torch.cat([cls, grid], dim=1)) for place in places.values())


def test_batches_of_bounded_size_give_the_same():
    model, clips, noise = build(SMALL), spectrograms(5), torch.rand(5, 24)
    whole = list(trace(model, clips, noise, batch_size=5))
    parts = list(trace(model, clips, noise, batch_size=2))
    assert [len(part.inputs) for part in parts] == [2] * 8 + [1] * 4
    assert [part.first for part in parts] == [0] * 4 + [2] * 4 + [4] * 4
    for number, block in enumerate(whole):
        maps = torch.cat([part.maps() for part in parts[number::4]])
        torch.testing.assert_close(maps, block.maps(), atol=1e-5, rtol=1e-4)


def test_bad_arguments():
    model = build(SMALL)
    with pytest.raises(HearMwmaeError, match=r"noise must have shape \(2, 24\), got \(2, 23\)"):
        list(trace(model, spectrograms(2), torch.rand(2, 23)))
    with pytest.raises(HearMwmaeError, match="batch_size"):
        list(trace(model, spectrograms(2), batch_size=0))


#: The paper's grid: 50 steps of 40 ms, 5 bands of 16 mel bands.
PAPER = ModelConfig(EncoderConfig(32, 1, 1))


def statistics(
    maps: torch.Tensor, visible: torch.Tensor | None = None, positions: torch.Tensor | None = None
) -> dict[str, float]:
    """Of one head's map (sequence, sequence) on the paper's grid."""
    length = len(maps)
    visible = torch.ones(length, length, dtype=torch.bool) if visible is None else visible
    positions = torch.arange(length) if positions is None else positions
    found = head_statistics(maps[None, None], positions[None], visible[None], patch_distances(PAPER))
    assert tuple(found) == MEASURES and all(value.shape == (1, 1) for value in found.values())
    return {name: value.item() for name, value in found.items()}


def test_uniform_attention():
    found = statistics(torch.full((250, 250), 1 / 250))
    places = [(token // 5, token % 5) for token in range(250)]
    pairs = [(a, b) for a in places for b in places]
    assert found["distance"] == pytest.approx(sum(math.dist(a, b) for a, b in pairs) / len(pairs), rel=1e-4)
    assert found["distance_uniform"] == pytest.approx(found["distance"], rel=1e-4)
    # The mean distance of two of n equally spaced places is (n^2 - 1) / 3n.
    assert found["distance_ms"] == pytest.approx(40 * (50**2 - 1) / 150, rel=1e-4)
    assert found["distance_bands"] == pytest.approx(16 * (5**2 - 1) / 15, rel=1e-4)
    assert found["distance_most"] == pytest.approx(sum(max(math.dist(a, b) for b in places) for a in places) / 250, rel=1e-4)
    assert found["entropy"] == pytest.approx(math.log(250), rel=1e-4)
    assert found["entropy_normalised"] == pytest.approx(1, rel=1e-4) and found["cls"] == 0


def test_a_head_that_attends_to_itself():
    found = statistics(torch.eye(250))
    assert [found[name] for name in ("distance", "distance_ms", "distance_bands", "entropy", "entropy_normalised")] == [0] * 5


def test_one_far_key():
    maps = torch.zeros(250, 250)
    maps[:, 249] = 1  # step 49, band 4
    found = statistics(maps)
    assert found["distance"] == pytest.approx(sum(math.hypot(49 - t // 5, 4 - t % 5) for t in range(250)) / 250, rel=1e-5)
    assert found["distance_ms"] == pytest.approx(40 * 24.5) and found["distance_bands"] == pytest.approx(16 * 2)
    assert found["entropy"] == 0


@pytest.mark.parametrize(("window", "uniform", "most", "bands", "ms"), [(5, 1.6, 3.2, 25.6, 0.0), (1, 0, 0, 0, 0)])
def test_uniform_within_one_window(window, uniform, most, bands, ms):
    """A window of 5 tokens is one time step: bands 0 to 4."""
    visible = torch.arange(250)[:, None] // window == torch.arange(250) // window
    found = statistics(visible / window, visible)
    assert found["distance"] == pytest.approx(uniform) and found["distance_uniform"] == pytest.approx(uniform)
    assert found["distance_most"] == pytest.approx(most)
    assert found["distance_bands"] == pytest.approx(bands) and found["distance_ms"] == ms
    assert found["entropy"] == pytest.approx(math.log(window), abs=1e-6)
    assert found["entropy_normalised"] == pytest.approx(float(window > 1))


def test_kept_tokens_are_as_far_as_they_were_on_the_grid():
    # Three tokens of a masked input, out of order: steps 49, 0 and 0, bands 0, 0 and 4. Each
    # attends to the next.
    found = statistics(torch.eye(3).roll(1, 1), positions=torch.tensor([245, 0, 4]))
    assert found["distance"] == pytest.approx((49 + 4 + math.hypot(49, 4)) / 3)
    assert found["entropy_normalised"] == 0


def test_cls_is_left_out_and_told():
    """Half of the attention goes to CLS, a quarter each to two patches: as if these had
    half each.
    """
    maps = torch.zeros(4, 4)
    maps[:, 0] = 0.5
    maps[:, 1:3] = 0.25  # patches 0 and 1
    found = statistics(maps, positions=torch.tensor([CLS, 0, 1, 5]))
    assert found["cls"] == 0.5
    assert found["entropy"] == pytest.approx(math.log(2)) and found["entropy_normalised"] == pytest.approx(
        math.log(2) / math.log(3)
    )
    assert found["distance"] == pytest.approx((0.5 + 0.5 + (1 + math.sqrt(2)) / 2) / 3)


@pytest.mark.parametrize("name", MODELS)
def test_statistics_of_a_model_keep_within_their_bounds(name):
    model = build(MODELS[name])
    distances = patch_distances(model.config)
    for noise in (None, torch.rand(3, 24)):
        for block in trace(model, spectrograms(3), noise):
            found = block_statistics(block, distances)
            assert found["distance"].shape == (3, len(head_windows(block.attention)))
            assert (found["distance"] <= found["distance_most"] + 1e-5).all() and (found["entropy_normalised"] <= 1 + 1e-5).all()
            assert (found["cls"] > 0).all() if model.config.encoder.cls_token else not found["cls"].any()
            if block.part == "decoder" and name.startswith("windows"):
                assert found["distance_most"][0].argsort().tolist() == list(range(6))  # grows with the window


def test_attention_maps_of_a_batch_of_one_module():
    module = MultiWindowAttention(8, (0, 3))
    maps = attention_maps(module, torch.randn(2, 6, 8))
    assert maps.shape == (2, 2, 6, 6) and not maps[:, 1, :3, 3:].any()
