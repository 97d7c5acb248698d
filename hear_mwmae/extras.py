"""Errors of missing optional packages: which extra to install."""

from __future__ import annotations

from .errors import HearMwmaeError


def install_hint(extra: str) -> str:
    """The command that installs ``extra``."""
    # In a checkout: the package is not on a package index yet. Once it is, only this line changes.
    return f"pip install '.[{extra}]' in a checkout of hear-mwmae"


def needs(what: str, package: str | None, extra: str) -> HearMwmaeError:
    """The error to raise if ``package`` (or a module of it) is missing, which ``extra`` of
    setup.cfg installs.
    """
    return HearMwmaeError(f"{what} needs {(package or 'a package').partition('.')[0]}: {install_hint(extra)}")
