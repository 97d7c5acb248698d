"""Commands whose errors are for people, and the options that they share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .errors import HearMwmaeError
from .files import printable

#: Where a context keeps whether the command was called with --debug.
DEBUG = "hear_mwmae.debug"


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[DEBUG] = True  # which a group and its commands share


class Command(click.Command):
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

    def invoke(self, ctx: click.Context) -> Any:
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


class Group(Command, click.Group):
    """A command of commands."""

    command_class = Command


MODEL_HELP = (
    "The embedded model when not given; else a registered name, a directory, a .safetensors file, org/repo[@revision] on the "
    "Hugging Face Hub, or a checkpoint of the authors' code."
)
#: Options and arguments that have one name and one meaning in all commands. They are decorators.
TASKS = click.argument("tasks", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
MODEL = click.option("--model", default="", metavar="MODEL", help=MODEL_HELP)
DEVICE = click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps, ...")
POOLING = click.option("--pooling", metavar="WAYS", help="Over time: mean, std, max, joined by +. The model's, when not given.")


def models_option(more_help: str = "") -> Callable:
    """--model for commands that take several."""
    help_text = f"{MODEL_HELP}{more_help} May be given again."
    return click.option("--model", "models", multiple=True, metavar="[NAME=]MODEL", help=help_text)


def jobs_option(help_text: str = "Processes.") -> Callable:
    """--jobs, as many as there are cores by default."""
    return click.option("--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True, help=help_text)


def out_option(help_text: str, *, folder: bool | None = None, required: bool = True) -> Callable:
    """-o/--out: a folder, a file, or either (None) to write."""
    path = click.Path(file_okay=folder is not True, dir_okay=folder is not False, path_type=Path)
    return click.option("-o", "--out", type=path, required=required, metavar="OUT", help=help_text)


def named_models(texts: tuple[str, ...]) -> dict[str, str]:
    """[NAME=]MODEL texts -> model by name; the embedded model where there are none. HearMwmaeError where names repeat."""
    models = dict(named_model(text) for text in texts or ("",))
    if len(models) < len(texts):
        raise HearMwmaeError(f"two models have the same name: give them names, as in --model NAME={texts[-1]}")
    return models


def named_model(text: str) -> tuple[str, str]:
    """NAME=MODEL or MODEL -> name, model; a model without a name is called after its last part, or "embedded"."""
    name, separator, source = text.partition("=")
    if separator and name and "/" not in name:
        return name, source
    return (Path(text).name or "embedded"), text
