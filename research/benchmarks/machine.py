"""The name of the machine that the benchmarks print."""

from __future__ import annotations

import cpuinfo
import torch


def processor(device: str = "cpu") -> str:
    """Name of the processor, or of the GPU."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return cpuinfo.get_cpu_info().get("brand_raw", "unknown processor")
