"""HearMwmaeError, the exception for errors that a user can fix, and helpers for its messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class HearMwmaeError(ValueError):
    """Bad input: a file, an option, audio, weights or a recipe.

    The message says what was wrong and what is expected.

    The commands print it as one line. Any other exception is a bug, and keeps its traceback.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'mwmae-tiny'?" if ``name`` is a near miss of one of ``known``, for the end
    of a message; else "".
    """
    by_lower = {other.lower(): other for other in known}
    near = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.75)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""


def differences(old: dict, new: dict, where: str = "") -> list[tuple[str, object, object]]:
    """(dotted key, old value, new value) of every differing entry of two nested dictionaries; None
    for a missing value.
    """
    found = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{where}{key}.")
        elif before != after:
            found.append((f"{where}{key}", before, after))
    return found
