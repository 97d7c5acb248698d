"""The oneDNN path gives what torch's own layers give, and only where it may be taken."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hear_mwmae import linear
from hear_mwmae.linear import Linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gelu", [False, True])
def test_both_paths_agree(dtype, gelu, monkeypatch):
    torch.manual_seed(0)
    layer = Linear(64, 256, gelu=gelu).to(dtype)
    x = torch.randn(3, 50, 64).to(dtype)
    with torch.no_grad():
        fast = layer(x)
        monkeypatch.setattr(linear, "ONEDNN", False)
        plain = layer(x)
    expected = F.linear(x, layer.weight, layer.bias)
    expected = F.gelu(expected, approximate="tanh") if gelu else expected
    assert torch.equal(plain, expected)
    tolerance = 2e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(fast, expected, atol=tolerance, rtol=tolerance)


def test_gradients_and_hooks_work():
    layer, seen = Linear(8, 8, gelu=True), []
    layer.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    layer(torch.randn(2, 8)).sum().backward()
    assert layer.weight.grad is not None
    with torch.inference_mode():
        layer(torch.randn(2, 8))
    assert seen == [(2, 8), (2, 8)]


def test_autocast_keeps_its_meaning():
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert Linear(8, 8)(torch.randn(2, 8)).dtype == torch.bfloat16


def test_the_compiled_gelu_is_the_same_function():
    """In training only: exported models and inference keep the operator."""
    torch.manual_seed(0)
    layer, graphs = Linear(8, 64, gelu=True).double(), []

    def backend(graph, example_inputs):
        graphs.append(graph.code)
        return graph.forward

    compiled = torch.compile(layer, backend=backend)
    x = (4 * torch.randn(100, 8)).double().requires_grad_()
    results = []
    for call in (compiled, layer):
        y = call(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])))
    assert "sigmoid" in graphs[0] and "gelu" not in graphs[0]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), results[1][0], rtol=1e-12, atol=1e-12)
    assert "gelu" in graphs[1]
