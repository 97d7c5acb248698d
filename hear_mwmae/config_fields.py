"""The fields of a configuration: types and bounds that untrusted JSON is held to, and the JSON
round trip.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from typing import Any

from .errors import HearMwmaeError

#: Upper bounds of integers in a configuration, by field. Real models stay far below them. Within
#: them a front-end takes a few hundred MB: a damaged or untrusted configuration must not allocate
#: terabytes.
LIMITS = {
    "sample_rate": 1_000_000,
    "win_lengths": 65_536,
    "hop_length": 65_536,
    "n_mels": 1024,
    "width": 16_384,
    "depth": 256,
    "heads": 1024,
    "input_frames": 65_536,
    "patch_size": 1024,
    "window_sizes": 65_536,
}


def check_fields(config: object) -> None:
    """Check every field by its annotation.

    Lists become tuples, and integers become floats in float fields.
    """
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if hint is int:
            _check_whole(name, value, 1)
        elif hint is float:
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < sys.float_info.max:
                raise HearMwmaeError(f"{name} must be a finite number, got {value!r:.100}")
            object.__setattr__(config, name, float(value))
        elif isinstance(hint, types.GenericAlias):  # tuple[int, ...] and tuple[int, int]
            if not isinstance(value, tuple | list):
                raise HearMwmaeError(f"{name} must be a tuple of whole numbers, got {value!r:.100}")
            for item in value:
                _check_whole(name, item, 0)
            object.__setattr__(config, name, tuple(value))
        elif not isinstance(value, hint):
            raise HearMwmaeError(f"{name} must be a {hint.__name__}, got {value!r:.100}")


def _check_whole(name: str, value: object, least: int) -> None:
    most = LIMITS[name]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise HearMwmaeError(f"{name} must be a whole number from {least} to {most}, got {value!r:.100}")


def to_plain(value: object) -> object:
    """``value`` as JSON has it: tuples become lists."""
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def from_plain(kind: type, value: Any, where: str) -> Any:
    """Rebuild a dataclass (or a plain value) of type ``kind`` from parsed JSON.

    Errors name the place of the mistake.
    """
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise HearMwmaeError(f"{where} must be a JSON object, got {type(value).__name__}")
        hints = typing.get_type_hints(kind)
        optional = {known.name for known in dataclasses.fields(kind) if known.metadata.get("optional")}
        unknown, missing = sorted(set(value) - set(hints)), sorted(set(hints) - set(value) - optional)
        if unknown or missing:
            parts = [f"unknown keys {unknown}"] * bool(unknown) + [f"missing keys {missing}"] * bool(missing)
            raise HearMwmaeError(f"{where} has {' and '.join(parts)}; it takes exactly {sorted(hints)}")
        return kind(**{name: from_plain(hint, value[name], f"{where}.{name}") for name, hint in hints.items() if name in value})
    if isinstance(kind, types.GenericAlias):  # tuple[int, ...] and tuple[int, int]
        if not isinstance(value, list):
            raise HearMwmaeError(f"{where} must be a list, got {value!r:.100}")
        return tuple(from_plain(int, item, where) for item in value)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise HearMwmaeError(f"{where} must be {kind.__name__}, got {value!r:.100}")
    return value
