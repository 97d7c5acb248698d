"""Packages that only some uses need: what to install where one is missing."""

from __future__ import annotations

from .errors import HearMwmaeError


def install_hint(extra: str) -> str:
    """The command that installs ``extra``, as users can run it."""
    # From a checkout: the package is on no package index yet. Once it is, only this line changes.
    return f"pip install '.[{extra}]' in a checkout of hear-mwmae"


def needs(what: str, package: str | None, extra: str) -> HearMwmaeError:
    """The error to raise where ``package``, or a module of it, is missing, which ``extra`` of setup.cfg installs."""
    return HearMwmaeError(f"{what} needs {str(package).partition('.')[0]}: {install_hint(extra)}")
