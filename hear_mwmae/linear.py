"""Linear layers and the GELU, which take the fastest exact path on a CPU."""

from __future__ import annotations

import math
import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: torch multiplies float32 matrices with MKL, which reaches half the rate of oneDNN on AMD's
#: processors. Only oneDNN can apply the GELU while the product is still in the cache; otherwise it
#: takes as long as the product. oneDNN has no backward pass, so training uses torch's layers.
#: benchmarks/embed.py measures the difference.
ONEDNN = (
    platform.machine() in ("x86_64", "AMD64")
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
#: oneDNN refuses bfloat16 on processors that would have to emulate it.
ONEDNN_DTYPES = {torch.float32}
if ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    ONEDNN_DTYPES.add(torch.bfloat16)


class Linear(nn.Linear):
    """``nn.Linear``, with ``gelu`` followed by a GELU in its tanh approximation, as in the authors'
    code.
    """

    def __init__(self, in_features: int, out_features: int, gelu: bool = False) -> None:
        super().__init__(in_features, out_features)
        self.gelu = gelu

    def forward(self, x: Tensor) -> Tensor:
        inference = x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        inference = inference and not torch.compiler.is_compiling()  # the compiler chooses its own products
        if ONEDNN and inference and x.dtype == self.weight.dtype and x.dtype in ONEDNN_DTYPES:
            activation, variant = ("gelu", "tanh") if self.gelu else ("none", "")
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, activation, [], variant)
        y = super().forward(x)
        return tanh_gelu(y) if self.gelu else y


def tanh_gelu(x: Tensor) -> Tensor:
    """GELU in its tanh approximation: 0.5 x (1 + tanh u), u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    if torch.compiler.is_compiling() and x.requires_grad:
        # The same function, because 0.5 (1 + tanh u) = sigmoid(2 u). In code compiled for a CPU,
        # tanh takes several times as long as exp.
        return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    return F.gelu(x, approximate="tanh")
