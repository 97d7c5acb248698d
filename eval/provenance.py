"""What made a result: the date, the machine, versions of libraries."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from typing import Any

import cpuinfo
import torch


def provenance(module: str = "") -> dict[str, Any]:
    """The time, the machine, and versions of heareval, its libraries and the HEAR module."""
    names = ["heareval", "torch", "pytorch-lightning", "numpy", "scikit-learn"]
    names += metadata.packages_distributions().get(module.partition(".")[0], [])[:1]
    return {
        "made": datetime.now(UTC).isoformat(),
        "machine": describe_machine(),
        "versions": {name: metadata.version(name) for name in names},
    }


@cache  # it takes a second
def describe_machine() -> str:
    """Processor, number of cores, and GPUs."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    processor = cpuinfo.get_cpu_info().get("brand_raw", "unknown processor")
    return ", ".join([processor, f"{os.cpu_count()} cores", *gpus])
