"""Commands whose errors are for people."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from .errors import HearMwmaeError
from .files import printable

#: Where a context keeps whether the command was called with --debug.
DEBUG = "hear_mwmae.debug"


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[DEBUG] = True  # which a group and its commands share


class OneLineErrors(click.Command):
    """Turns what a person can mend into one line on stderr and exit code 1: a HearMwmaeError, or an OSError that names a file.

    Anything else is a bug and keeps its traceback. With the option --debug, which this adds to the command, everything does.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.context_settings.setdefault("help_option_names", ["-h", "--help"])
        debug = click.Option(
            ["--debug"], is_flag=True, expose_value=False, callback=_set_debug, help="Show tracebacks of all errors."
        )
        self.params.append(debug)

    def invoke(self, ctx: click.Context) -> object:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="surrogateescape")  # names of files that are no UTF-8 go out as they came in
        try:
            return super().invoke(ctx)
        except (HearMwmaeError, OSError) as error:
            message = _one_line(error)
            if ctx.meta.get(DEBUG) or message is None:
                raise
            raise click.ClickException(printable(message)) from error


def _one_line(error: HearMwmaeError | OSError) -> str | None:
    if isinstance(error, HearMwmaeError):
        return str(error)
    return None if error.filename is None else f"{os.fsdecode(error.filename)}: {error.strerror}"


class Command(OneLineErrors):
    """A command by itself, or of a group."""


class Group(OneLineErrors, click.Group):
    """A command of commands."""

    command_class = Command
