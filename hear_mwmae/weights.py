"""The registry of known weights, and where the embedded model lies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DEFAULT_MODEL = "mwmae-tiny"
#: Installed, the files lie inside the package; in a checkout beside it.
_PLACES = (Path(__file__).with_name("models"), Path(__file__).parents[1] / "weights")
WEIGHTS_DIR = next((place for place in _PLACES if place.is_dir()), _PLACES[0])


@dataclass(frozen=True)
class Entry:
    """One model of ``registry.json``: a directory beside it, or a Hub repository, or a way to get
    it by hand.
    """

    description: str
    license: str
    sha256: str = ""  #: of the weights file
    repo: str = ""  #: of the Hub; empty for a directory of this package
    revision: str = ""
    unavailable: str = ""  #: why this package cannot deliver it, and how to get it


@cache
def registry() -> dict[str, Entry]:
    """Name -> entry."""
    entries = json.loads((WEIGHTS_DIR / "registry.json").read_text(encoding="utf-8"))
    return {name: Entry(**values) for name, values in entries.items()}
