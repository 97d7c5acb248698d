"""The linear layer and the GELU, on the fastest exact path of the processor."""

import math
import warnings
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: On processors with AVX-512, oneDNN's product is faster than the one that torch takes by default,
#: and it can apply the GELU while the product is still in the cache. The operation is private to
#: torch and has no backward pass, so it is taken at inference only, and torch's own layer
#: everywhere else. research/benchmarks/embed.py measures the difference.
_FUSED: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


@lru_cache
def cpu_capabilities() -> frozenset[str]:
    """Names of the processor's instruction sets as torch knows them, such as "avx512_f".

    The one place where the package asks what the processor can do.
    """
    if not hasattr(torch.cpu, "get_capabilities"):  # before torch 2.11
        return frozenset(
            {"avx512_f"} if torch.backends.cpu.get_cpu_capability() == "AVX512" else ()
        )
    return frozenset(name for name, has in torch.cpu.get_capabilities().items() if has is True)


def cpu_has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16; others emulate it, at a tenth of float32's
    speed.
    """
    return not cpu_capabilities().isdisjoint(("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def warn_of_emulation(dtype: torch.dtype, device: torch.device | str) -> None:
    """Warn if ``dtype`` is bfloat16 and ``device`` a processor that emulates it."""
    if (
        dtype == torch.bfloat16
        and torch.device(device).type == "cpu"
        and not cpu_has_fast_bfloat16()
    ):
        warnings.warn(
            "this processor emulates bfloat16, at about a tenth of float32's speed", stacklevel=3
        )


def fuses(x: Tensor, layer: nn.Linear) -> bool:
    """Whether oneDNN may compute ``layer(x)``: at inference, in plain tensors on a processor that
    gains.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    if (
        _FUSED is None
        or not torch.backends.mkldnn.is_available()
        or "avx512_f" not in cpu_capabilities()
    ):
        return False
    if type(x) is not Tensor or type(layer.weight) is not nn.Parameter or x.device.type != "cpu":
        return False
    if x.dtype != layer.weight.dtype or layer.weight.device.type != "cpu":
        return False
    return x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and cpu_has_fast_bfloat16())


class Linear(nn.Linear):
    """``nn.Linear`` on the fastest path, with the initial weights of the authors' code."""

    def reset_parameters(self) -> None:
        """Xavier-uniform weights (the fused qkv as one matrix) and zero biases."""
        if not self.weight.is_meta:  # of a model that is about to be loaded
            nn.init.xavier_uniform_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if fuses(x, self):
            return _FUSED(x, self.weight, self.bias, "none", [], "")
        return super().forward(x)


def linear_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """The GELU of ``layer(x)``, in one operation where ``layer`` is an untouched `Linear` without
    hooks.
    """
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    if type(layer) is Linear and not hooked and fuses(x, layer):
        return _FUSED(x, layer.weight, layer.bias, "gelu", [], "tanh")
    return tanh_gelu(layer(x))


def tanh_gelu(x: Tensor) -> Tensor:
    """GELU in its tanh approximation: 0.5 x (1 + tanh u), u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    if torch.compiler.is_compiling() and x.requires_grad:
        # The same function, because 0.5 (1 + tanh u) = sigmoid(2 u). In code compiled for a CPU,
        # tanh takes several times as long as exp.
        return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    return F.gelu(x, approximate="tanh")
