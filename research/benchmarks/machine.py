"""What the benchmarks share: the machine's name, and runs in turn."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import cpuinfo
import torch


def describe(device: str = "cpu") -> str:
    """The processor or GPU, the threads, and torch's version."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        name = cpuinfo.get_cpu_info().get("brand_raw", "unknown processor")
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def in_turn(
    ways: dict[Any, Callable[[], object]], rounds: int, device: str = "cpu"
) -> dict[Any, list[float]]:
    """Seconds of every way in every round, after one round that warms up.

    All ways run in turn, so that a change of the machine's speed meets all of them. The work that
    they start on an accelerator is included.
    """
    seconds: dict[Any, list[float]] = {key: [] for key in ways}
    for number in range(rounds + 1):
        for key, way in ways.items():
            start = time.perf_counter()
            way()
            if device != "cpu":
                torch.accelerator.synchronize()
            if number:
                seconds[key].append(time.perf_counter() - start)
    return seconds


def ratio(first: list[float], second: list[float]) -> float:
    """The median of each round's own ratio of the first to the second."""
    return median(a / b for a, b in zip(first, second, strict=True))
