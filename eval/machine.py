"""The machine behind a result: processor, memory, versions of libraries."""

from __future__ import annotations

import os
import resource
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import cpuinfo
import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")
#: Memory limit and use of control groups, version 2 and version 1.
CGROUP_FILES = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


@cache  # it takes a second
def describe_machine() -> str:
    """Processor, number of cores, and GPUs."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join([cpuinfo.get_cpu_info().get("brand_raw", "unknown processor"), f"{os.cpu_count()} cores", *gpus])


def versions(module: str = "") -> dict[str, str]:
    """Versions of heareval, its libraries, and the package of the HEAR module ``module``."""
    names = ["heareval", "torch", "pytorch-lightning", "numpy", "scikit-learn"]
    names += metadata.packages_distributions().get(module.partition(".")[0], [])[:1]
    return {name: metadata.version(name) for name in names}


def available_memory() -> int:
    """Available memory of the machine, or of this container, which psutil ignores; bytes."""
    limits = [psutil.virtual_memory().available]
    for most, used in CGROUP_FILES:
        if (CGROUP / most).is_file() and (text := (CGROUP / most).read_text().strip()) != "max":
            limits.append(int(text) - int((CGROUP / used).read_text()) + _reclaimable((CGROUP / used).with_name("memory.stat")))
    return max(min(limits), 0)


def _reclaimable(stat: Path) -> int:
    """Bytes of a container's page cache that it gives back when memory is asked for."""
    if not stat.is_file():
        return 0
    values = dict(line.split() for line in stat.read_text().splitlines())
    return int(values.get("total_inactive_file", values.get("inactive_file", 0)))


def peak_memory() -> int:
    """Peak RSS of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
