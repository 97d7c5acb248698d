"""The model: sizes, shapes, windows, masking, errors."""

import dataclasses

import pytest
import torch

from hear_mwmae.attention import MultiWindowAttention
from hear_mwmae.config import (
    derive_window_sizes,
    preset,
    preset_names,
)
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.tiles import TiledMultiWindowAttention

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


def test_parameter_totals():
    for name in preset_names():
        with torch.device("meta"):
            model = MaskedAutoencoder(preset(name))
        assert sum(weight.numel() for weight in model.parameters()) == TOTALS[name]


def test_window_rule():
    assert derive_window_sizes(250) == (2, 5, 10, 25, 50, 125, 0, 0)
    heads = {125: 4, 250: 8, 500: 12, 640: 16}
    assert {tokens: len(derive_window_sizes(tokens)) for tokens in heads} == heads


@pytest.mark.parametrize("kind", ["mwmae", "mae"])
@pytest.mark.parametrize("patch_size", [(4, 8), (8, 16)])
def test_patch_sizes(kind, patch_size):
    config = preset(f"{kind}-tiny", patch_size)
    config = dataclasses.replace(
        config,
        encoder=dataclasses.replace(config.encoder, width=48, depth=2),
        decoder=dataclasses.replace(config.decoder, width=48),
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
    features = model.encoder.forward_features(torch.randn(2, 200, 80))
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
@pytest.mark.parametrize("sizes", [(2, 3, 4, 6, 12, 0), (0, 12, 2, 0, 3, 2), (24, 4), (1, 2, 8, 0)])
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


@pytest.mark.parametrize("kind", [MultiWindowAttention, TiledMultiWindowAttention])
def test_training_works_after_inference_mode(kind):
    module = kind(16, (2, 0))
    with torch.inference_mode():
        module(torch.randn(1, 6, 16))
    module(torch.randn(1, 6, 16)).sum().backward()
