"""The CPUs that this process may use."""

from __future__ import annotations

import os


def usable_cpus() -> int:
    """Number of CPUs that the affinity of this process and Slurm's limit leave to it."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    limit = int(slurm) if slurm.isdigit() else count
    return max(min(count or 1, limit or 1), 1)
