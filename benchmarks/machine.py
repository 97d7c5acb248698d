"""What the benchmarks share: the processor's name, and the time of a call."""

from __future__ import annotations

import time
from collections.abc import Callable

import cpuinfo


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def processor() -> str:
    """Name of the processor."""
    return cpuinfo.get_cpu_info().get("brand_raw", "unknown processor")
