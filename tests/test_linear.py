"""The fused path gives what torch's own layers give, and is taken only where it may be."""

import pytest
import torch
import torch.nn.functional as F

import hear_mwmae
from hear_mwmae import linear
from hear_mwmae.encoder import Mlp
from hear_mwmae.linear import Linear, linear_gelu

AVX2 = frozenset({"avx2", "fma3"})


@pytest.fixture
def plain_processor(monkeypatch):
    """A processor with AVX2 only, as most desktops have, where the private operation would fail."""

    def refuse(*_: object) -> None:
        raise RuntimeError("mkldnn: unsupported on this processor")

    monkeypatch.setattr(linear, "_FUSED", refuse)
    monkeypatch.setattr(linear, "cpu_capabilities", lambda: AVX2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_paths_agree(dtype, monkeypatch):
    torch.manual_seed(0)
    layer = Linear(64, 256).to(dtype)
    x = torch.randn(3, 50, 64).to(dtype)
    tolerance = 2e-6 if dtype == torch.float32 else 2e-2
    expected = F.linear(x, layer.weight, layer.bias)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, atol=tolerance, rtol=tolerance)
        fused = linear_gelu(layer, x)
        torch.testing.assert_close(
            fused, F.gelu(expected, approximate="tanh"), atol=tolerance, rtol=tolerance
        )
        monkeypatch.setattr(linear, "cpu_capabilities", lambda: AVX2)
        assert torch.equal(layer(x), expected)
        assert torch.equal(linear_gelu(layer, x), F.gelu(expected, approximate="tanh"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_plain_processor_embeds(plain_processor, recwarn, dtype):
    model = hear_mwmae.load_model(dtype=dtype)
    said = [str(warning.message) for warning in recwarn if "bfloat16" in str(warning.message)]
    assert len(said) == (dtype == "bfloat16")  # it is ten times slower there, which is said once
    assert torch.isfinite(model.embed(torch.rand(2, 9000) - 0.5)).all()


class Packed(torch.Tensor):
    """A weight of another kind, as quantisation makes them: torch's own layer knows what to do."""


def test_other_weights_and_types_take_torchs_layer(monkeypatch):
    monkeypatch.setattr(linear, "_FUSED", lambda *_: pytest.fail("taken"))
    layer = Linear(8, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 8)).dtype == torch.bfloat16
    packed = layer.weight.detach().as_subclass(Packed)
    layer.weight = torch.nn.Parameter(packed, requires_grad=False)
    with torch.no_grad():
        assert layer(torch.randn(2, 8)).shape == (2, 4)


def test_gradients_and_hooks_work():
    mlp, seen = Mlp(8, 16), []
    mlp.fc1.register_forward_hook(lambda module, args, output: seen.append(output))
    x = torch.randn(2, 8)
    mlp(x).sum().backward()
    assert mlp.fc1.weight.grad is not None
    with torch.inference_mode():
        mlp(x)
    for output in seen:  # the hook sees a linear map, in training and at inference
        torch.testing.assert_close(
            output.detach(), F.linear(x, mlp.fc1.weight, mlp.fc1.bias).detach()
        )
    assert len(seen) == 2


def test_the_compiled_gelu_is_the_same_function():
    """In training only: exported models and inference keep the operator."""
    torch.manual_seed(0)
    mlp, graphs = Mlp(8, 64).double(), []

    def backend(graph, example_inputs):
        graphs.append(graph.code)
        return graph.forward

    compiled = torch.compile(mlp, backend=backend)
    x = (4 * torch.randn(100, 8)).double().requires_grad_()
    results = []
    for call in (compiled, mlp):
        y = call(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, *mlp.parameters()])))
    assert "sigmoid" in graphs[0] and "gelu" not in graphs[0]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), results[1][0], rtol=1e-12, atol=1e-12)
    assert "gelu" in graphs[1]
