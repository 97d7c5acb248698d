"""The model: sizes, shapes, windows, masking, errors."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F

from hear_mwmae.attention import MultiWindowAttention, RecomputedAttention
from hear_mwmae.config import (
    PATCH_SIZES,
    DecoderConfig,
    EncoderConfig,
    FrontendConfig,
    ModelConfig,
    derive_window_sizes,
    preset,
    preset_names,
)
from hear_mwmae.encoder import Encoder
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.patches import patchify, random_masking, unpatchify
from hear_mwmae.tiles import TiledMultiWindowAttention, group_heads

TOTALS = {
    "mwmae-tiny": 12_694_704,
    "mwmae-small": 28_784_496,
    "mwmae-medium": 45_409_264,
    "mwmae-base": 92_814_576,
    "mwmae-large": 310_248_944,
    "mwmae-huge": 637_797_104,
    "mae-tiny": 12_693_760,
    "mae-small": 28_783_936,
    "mae-medium": 45_408_960,
    "mae-base": 92_814_784,
    "mae-large": 310_249_664,
    "mae-huge": 637_798_336,
}
HEADS_BY_TOKENS = {125: 4, 250: 8, 500: 12, 640: 16}


@pytest.mark.parametrize("name", preset_names())
def test_parameter_totals(name):
    with torch.device("meta"):
        model = MaskedAutoencoder(preset(name))
    assert sum(p.numel() for p in model.parameters()) == TOTALS[name]


def test_window_rule():
    assert derive_window_sizes(250) == (2, 5, 10, 25, 50, 125, 0, 0)
    assert {n: len(derive_window_sizes(n)) for n in HEADS_BY_TOKENS} == HEADS_BY_TOKENS


@pytest.mark.parametrize("kind", ["mwmae", "mae"])
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_patch_sizes(kind, patch_size):
    config = preset(f"{kind}-tiny", patch_size)
    config = dataclasses.replace(
        config, encoder=dataclasses.replace(config.encoder, width=48, depth=2)
    )
    model = MaskedAutoencoder(config)
    out = model(torch.randn(2, 200, 80))
    tokens, kept = config.num_tokens, config.num_kept
    assert tokens == 200 * 80 // (patch_size[0] * patch_size[1]) and kept == tokens // 5
    assert out.pred.shape == (2, tokens, patch_size[0] * patch_size[1])
    assert out.latent.shape == (2, kept + (kind == "mae"), 48)
    assert out.mask.sum(dim=1).tolist() == [tokens - kept] * 2
    out.loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    features = model.forward_features(torch.randn(2, 200, 80))
    assert features.shape == (2, 200 // patch_size[0], 80 // patch_size[1] * 48)


def naive_multi_window_attention(module: MultiWindowAttention, x: torch.Tensor) -> torch.Tensor:
    """Head by head and window by window, straight from the paper."""
    batch, length, width = x.shape
    heads = len(module.window_sizes)
    qkv = module.qkv(x).view(batch, length, 3, heads, width // heads)
    out = torch.zeros(batch, length, heads, width // heads)
    for head, w in enumerate(module.window_sizes):
        q, k, v = qkv[:, :, :, head].unbind(2)
        move = w // 2 if module.shift and w else 0
        order = [(i + move) % length for i in range(length)]
        size = w or length
        for start in range(0, length, size):
            places = order[start : start + size]
            scores = q[:, places] @ k[:, places].transpose(1, 2) / (width // heads) ** 0.5
            for i in range(size):
                for j in range(size):
                    if w:
                        scores[:, i, j] = (
                            scores[:, i, j]
                            + module.relative_position_bias_table[str(head)][i - j + w - 1]
                        )
                    # After a shift the last window joins the end of the sequence to its start.
                    if move and start + size == length and (i < size - move) != (j < size - move):
                        scores[:, i, j] = float("-inf")
            out[:, places, head] = scores.softmax(dim=-1) @ v[:, places]
    return module.proj(out.flatten(2))


@pytest.mark.parametrize("kind", [MultiWindowAttention, TiledMultiWindowAttention])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize(
    "sizes", [(2, 3, 4, 6, 12, 0), (0, 12, 2, 0, 3, 2), (24, 4), (0, 0), (1, 2, 8, 0)]
)
def test_heads_together_equal_heads_one_by_one(sizes, shift, kind):
    torch.manual_seed(0)
    module = kind(4 * len(sizes), sizes, shift)
    for table in module.relative_position_bias_table.values():
        torch.nn.init.normal_(table)
    x = torch.randn(2, 24, 4 * len(sizes), requires_grad=True)
    y, expected = module(x), naive_multi_window_attention(module, x)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():  # another path: fused attention
        torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)
    inputs = [x, *module.parameters()]
    for one, other in zip(
        *(torch.autograd.grad(z.square().sum(), inputs) for z in (y, expected)), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bias_shape", [None, (2, 5, 5)])  # global; windowed
def test_gradients_of_recomputed_attention(bias_shape):
    """Numerically, and with masked scores against torch's own."""
    tensors = [torch.randn(4, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    bias = None
    if bias_shape:
        bias = torch.randn(bias_shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(RecomputedAttention.apply, (*tensors, bias))
        bias = bias.detach().masked_fill(torch.rand(bias_shape) < 0.3, float("-inf"))
        bias.diagonal(dim1=-2, dim2=-1).fill_(0.0)
        bias.requires_grad_()
    else:
        assert torch.autograd.gradcheck(lambda *qkv: RecomputedAttention.apply(*qkv, None), tensors)
    inputs, weight = (*tensors, *([bias] if bias_shape else [])), torch.randn_like(tensors[0])
    ours, theirs = (
        RecomputedAttention.apply(*tensors, bias),
        F.scaled_dot_product_attention(*tensors, attn_mask=bias),
    )
    assert torch.allclose(ours, theirs)
    for one, other in zip(
        *(torch.autograd.grad((y * weight).sum(), inputs) for y in (ours, theirs)), strict=True
    ):
        assert torch.allclose(one, other)


def test_small_windows_share_a_tile():
    groups = group_heads(250, derive_window_sizes(250))
    assert groups == [(50, [0, 1, 2, 3, 4]), (125, [5]), (250, [6, 7])]


@pytest.mark.parametrize("kind", [MultiWindowAttention, TiledMultiWindowAttention])
def test_training_works_after_inference_mode(kind):
    module = kind(16, (2, 0))
    with torch.inference_mode():
        module(torch.randn(1, 6, 16))
    module(torch.randn(1, 6, 16)).sum().backward()


def test_encoder_windows_and_shift():
    windows = (2, 5, 10, 0)
    config = ModelConfig(
        EncoderConfig(32, 2, 4, window_sizes=windows, shift_windows=True),
        DecoderConfig(32, 2, 8, window_sizes=derive_window_sizes(250), shift_windows=True),
    )
    model = MaskedAutoencoder(config)
    assert [block.attn.shift for block in model.encoder.blocks] == [False, True]
    assert config.kind == "mwmae"
    model(torch.randn(1, 200, 80)).loss.backward()
    assert model.forward_features(torch.randn(1, 200, 80)).shape == (1, 50, 160)


def test_positions_are_parameters_and_the_cls_row_is_zero():
    encoder = Encoder(preset("mae-tiny"))
    assert isinstance(encoder.pos_embed, torch.nn.Parameter) and encoder.pos_embed.requires_grad
    assert not encoder.pos_embed[:, 0].any() and encoder.pos_embed.shape == (1, 251, 192)


def test_patchify_round_trip_and_order():
    spectrogram = torch.arange(200 * 80.0).view(1, 200, 80)
    patches = patchify(spectrogram, (4, 16))
    assert torch.equal(
        patches[0, 6], spectrogram[0, 4:8, 16:32].flatten()
    )  # token 6: second time step, second band
    assert torch.equal(unpatchify(patches, (4, 16), (50, 5)), spectrogram)


def test_random_masking_keeps_what_the_noise_says():
    tokens, noise = torch.randn(2, 10, 3), torch.rand(2, 10)
    kept, mask, ids_restore = random_masking(tokens, 3, noise)
    for row in range(2):
        smallest = noise[row].argsort()[:3]
        assert torch.equal(kept[row], tokens[row, smallest])
        assert mask[row].nonzero().flatten().tolist() == sorted(
            set(range(10)) - set(smallest.tolist())
        )
        whole = torch.cat([kept[row], torch.zeros(7, 3)])[ids_restore[row]]
        assert torch.equal(whole[mask[row] == 0], tokens[row, mask[row] == 0])


def test_loss_counts_masked_patches_only():
    model = MaskedAutoencoder(preset("mwmae-tiny"))
    x, mask = torch.randn(1, 200, 80), torch.zeros(1, 250)
    mask[0, 7] = 1
    pred = patchify(x, (4, 16))
    pred[0, 8] += 100  # not masked: does not count
    assert model.loss(x, pred, mask).item() == 0
    pred[0, 7] += 2
    assert model.loss(x, pred, mask).item() == pytest.approx(4, rel=1e-5)


def test_masks_follow_torchs_generator():
    model = MaskedAutoencoder(preset("mwmae-tiny"))
    x = torch.randn(1, 200, 80)
    with torch.no_grad():
        masks = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            masks.append(model(x).mask)
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EncoderConfig(190, 12, 3), "width 190 is not divisible by 3 heads"),
        (lambda: EncoderConfig(6, 1, 3), "width 6 must be a multiple of 4"),
        (lambda: EncoderConfig(64, 0, 2), "depth must be a whole number from 1 to 256, got 0"),
        (lambda: EncoderConfig(64, 1, 2, cls_token=True, window_sizes=(2, 0)), "CLS token"),
        (
            lambda: DecoderConfig(64, 1, 2, window_sizes=(2, 5, 0)),
            r"2 heads but 3 window sizes \[2, 5, 0\]",
        ),
        (lambda: DecoderConfig(63, 1, 3), "width 63 must be even"),
        (lambda: DecoderConfig(64, 1, 2, shift_windows=True), "shift_windows needs window_sizes"),
        (
            lambda: ModelConfig(EncoderConfig(64, 1, 2), patch_size=(7, 16)),
            "7 x 16 do not tile the input of 200 frames x 80",
        ),
        (lambda: ModelConfig(EncoderConfig(64, 1, 2), patch_size=(0, 16)), "patch_size"),
        (lambda: ModelConfig(EncoderConfig(64, 1, 2), input_frames=199), "199 frames"),
        (
            lambda: ModelConfig(
                EncoderConfig(64, 1, 2), DecoderConfig(64, 1, 2, window_sizes=(3, 0))
            ),
            r"\[3\] do not divide its 250",
        ),
        (
            lambda: ModelConfig(EncoderConfig(64, 1, 2, window_sizes=(125, 0))),
            r"\[125\] do not divide its 50 tokens",
        ),
        (lambda: ModelConfig(EncoderConfig(64, 1, 2), mask_ratio=1.0), "mask_ratio"),
        (lambda: FrontendConfig(f_max=9000.0), "50.0-9000.0 Hz"),
        (lambda: preset("mwmae-gigantic"), "mwmae-gigantic.*there are: mwmae-tiny"),
        (lambda: derive_window_sizes(1), "at least 2 tokens"),
        (lambda: MultiWindowAttention(10, (2, 0, 0)), "width 10 is not divisible by 3 heads"),
        (
            lambda: MultiWindowAttention(8, (4, 0))(torch.zeros(1, 6, 8)),
            r"windows \[4\] do not divide a sequence of 6",
        ),
        (
            lambda: Encoder(preset("mwmae-tiny"))(torch.zeros(1, 100, 80)),
            r"\(batch, 200, 80\), got \(1, 100, 80\)",
        ),
        (
            lambda: patchify(torch.zeros(1, 5, 80), (4, 16)),
            "5 frames x 80 bands cannot be cut into patches of 4 x 16",
        ),
        (
            lambda: random_masking(torch.zeros(2, 4, 1), 2, torch.zeros(2, 3)),
            r"\(2, 4\), one value per token, got \(2, 3\)",
        ),
    ],
)
def test_nonsense_is_refused_with_the_numbers(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", preset_names())
def test_config_json_round_trip(name):
    for patch_size in PATCH_SIZES:
        config = preset(name, patch_size)
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(colour="red"), r"unknown keys \['colour'\]"),
        (lambda c: c["encoder"].pop("heads"), r"config.encoder has missing keys \['heads'\]"),
        (lambda c: c["encoder"].update(mlp_ratio=10**400), "mlp_ratio must be a finite number"),
        (lambda c: c["encoder"].update(mlp_ratio=1e-3), "hidden layer of 0.192 units"),
        (
            lambda c: c["frontend"].update(win_lengths=[10**15]),
            "win_lengths must be a whole number from 0 to 65536",
        ),
        (
            lambda c: c["frontend"].update(log_offset=float("inf")),
            "log_offset must be a finite number",
        ),
        (lambda c: c["frontend"].update(hop_length=500), "leaves gaps"),
        (
            lambda c: c["frontend"].update(n_mels=10**6),
            "n_mels must be a whole number from 1 to 1024",
        ),
        (lambda c: c["encoder"].update(depth=10**6), "depth must be a whole number from 1 to 256"),
        (
            lambda c: c["encoder"].update(mlp_ratio=1000),
            "hidden layer of 192000 units, which must lie between 1 and 131072",
        ),
        (
            lambda c: c.update(input_frames=60_000, patch_size=[1, 1]),
            "are 4800000 tokens, above 65536",
        ),
        (
            lambda c: c["encoder"].update(width=16_380, depth=256),
            "model of 824.* billion parameters, above 10",
        ),
        (
            lambda c: c.update(mask_ratio=1e-9),
            "keeps 250 of the 250 tokens|keeps 249 of the 250 tokens",
        ),
        (lambda c: c["encoder"].update(width="192"), "config.encoder.width must be int, got '192'"),
        (lambda c: c.update(patch_size=4), "config.patch_size must be a list, got 4"),
        (lambda c: c.update(patch_size=[4, 16, 1]), "patch_size must be"),
        (lambda c: c.update(frontend=None), "config.frontend must be a JSON object"),
        (lambda c: c.update(norm_pix_loss=1), "norm_pix_loss must be bool"),
    ],
)
def test_config_from_json_is_strict(change, message):
    values = preset("mwmae-tiny").to_dict()
    change(values)
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_dict(values)
