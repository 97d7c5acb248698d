"""Commands whose errors are for people."""

from __future__ import annotations

import click

from .errors import HearMwmaeError


class OneLineErrors:
    """Turns what bad input, the disk or the network raise into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except HearMwmaeError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error


class Group(OneLineErrors, click.Group):
    """A command of commands."""


class Command(OneLineErrors, click.Command):
    """A command by itself."""
