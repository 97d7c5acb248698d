"""The registry of known weights, and the embedded default model.

Installed as ``hear_mwmae.weights``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

WEIGHTS_DIR = Path(__file__).resolve().parent
DEFAULT_MODEL = "mwmae-tiny"


@dataclass(frozen=True)
class Entry:
    """One model of ``registry.json``: a directory beside it, or a Hub repository, or a way to get
    it by hand.
    """

    description: str
    licence: str
    repo: str = ""  #: of the Hub; empty for a directory of this package
    revision: str = ""
    sha256: dict[str, str] = field(default_factory=dict)  #: file name -> hexadecimal digest
    unavailable: str = ""  #: why this package cannot deliver it, and how to get it


@cache
def registry() -> dict[str, Entry]:
    """Name -> entry."""
    return {name: Entry(**values) for name, values in json.loads((WEIGHTS_DIR / "registry.json").read_text()).items()}
