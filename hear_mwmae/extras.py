"""Missing optional packages: which extra to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import HearMwmaeError


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
