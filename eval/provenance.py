"""What made a result: the time and versions of libraries."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import metadata
from typing import Any


def provenance(module: str = "") -> dict[str, Any]:
    """The time, and versions of heareval, its libraries and the HEAR module."""
    names = ["heareval", "torch", "pytorch-lightning", "numpy", "scikit-learn"]
    names += metadata.packages_distributions().get(module.partition(".")[0], [])[:1]
    return {
        "made": datetime.now(UTC).isoformat(),
        "versions": {name: metadata.version(name) for name in names},
    }
