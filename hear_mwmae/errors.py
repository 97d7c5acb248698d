"""HearMwmaeError, the exception for errors that a user can fix, and helpers for its messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import ValidationError


class HearMwmaeError(ValueError):
    """Bad input: a file, an option, audio, weights or a recipe.

    The message says what was wrong and what is expected.

    The commands print it as one line. Any other exception is a bug, and keeps its traceback.
    """


def reason(error: BaseException) -> str:
    """Why something failed, in one line: the system's words of a file, or the first line of a
    message.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def checked(kind: Any, values: object, where: str | Path) -> Any:
    """``values`` as a ``kind`` of pydantic; HearMwmaeError names ``where`` and the key."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise HearMwmaeError(f"{where}: {invalid_value(error)}") from error


def invalid_value(error: ValidationError) -> str:
    """The first problem that pydantic found, in one line that names the key: "frontend.n_mels
    should be less than or equal to 512, got 5000".
    """
    problem = error.errors(include_url=False)[0]
    key = ".".join(map(str, problem["loc"]))
    if "error" in problem.get("ctx", {}):  # raised by a configuration itself
        said = str(problem["ctx"]["error"])
    elif problem["type"] in ("missing", "unexpected_keyword_argument"):
        said = problem["msg"]
    else:
        said = f"{problem['msg']}, got {problem['input']!r:.100}"
    if key and said.startswith("Input should"):
        return f"{key} {said.removeprefix('Input ')}"
    return f"{key}: {said}" if key else said


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Decorator (and context): a package that is missing in a call becomes one line that says which
    ``extra`` of setup.cfg installs it.

    Args:
        what: the subject of the line, such as "reading the authors' checkpoints".
    """
    try:
        yield
    except ModuleNotFoundError as error:
        named = (error.name or "a package").partition(".")[0]
        # In a checkout: the package is not on a package index yet. Once it is, only this changes.
        how = f"pip install '.[{extra}]' in a checkout of hear-mwmae"
        raise HearMwmaeError(f"{what} needs {named}: {how}") from error


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
