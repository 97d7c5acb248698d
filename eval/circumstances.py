"""Where something was computed, and with what."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def machine() -> str:
    """Processor, number of cores, and GPUs."""
    cpuinfo = Path("/proc/cpuinfo")  # Linux has it, and platform.processor() is empty there
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join([names[0] if names else platform.processor() or platform.machine(), f"{os.cpu_count()} cores", *gpus])


def versions(module: str = "") -> dict[str, str]:
    """Of what computes a result: the kit and its libraries, and the package that the HEAR module ``module`` is in."""
    names = ["heareval", "torch", "pytorch-lightning", "numpy", "scikit-learn"]
    names += metadata.packages_distributions().get(module.partition(".")[0], [])[:1]
    return {name: metadata.version(name) for name in names}


def available_memory() -> int | None:
    """Bytes that processes may still take, of the machine's or of this container's; None where that is not known."""
    if not MEMINFO.is_file():  # no Linux
        return None
    line = next(line for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable"))
    limits = [int(line.split()[1]) * 1024]
    # Control groups of version 2, then of version 1.
    for most, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        if (CGROUP / most).is_file() and (text := (CGROUP / most).read_text().strip()) != "max":
            limits.append(int(text) - int((CGROUP / used).read_text()))
    return max(min(limits), 0)
