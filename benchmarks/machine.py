"""What the benchmarks share: the processor's name, and the time of a call."""

from __future__ import annotations

import time
from collections.abc import Callable

import cpuinfo
import torch


def timed(run: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of one call, and of all that it has started on an accelerator."""
    start = time.perf_counter()
    run()
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def processor(device: str = "cpu") -> str:
    """Name of the processor, or of the GPU."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return cpuinfo.get_cpu_info().get("brand_raw", "unknown processor")
