"""Base classes of the commands, with one-line errors, and shared options."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import HearMwmaeError
from ..files import printable


class Command(click.Command):
    """Prints an error that a user can fix as one line on stderr, with exit code 1: HearMwmaeError,
    or OSError with a file name.

    Any other exception is a bug and keeps its traceback.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.context_settings.setdefault("help_option_names", ["-h", "--help"])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (HearMwmaeError, OSError) as error:
            message = str(error)
            if isinstance(error, OSError):
                if error.filename is None:
                    raise
                message = f"{os.fsdecode(error.filename)}: {error.strerror}"
            raise click.ClickException(printable(message)) from error


class Group(Command, click.Group):
    """A command of commands."""

    command_class = Command


MODEL_HELP = (
    "A registered name, a directory, a .safetensors file, org/repo[@revision] on the Hugging Face "
    "Hub, or a checkpoint of the authors' code. The default is the embedded model."
)
#: Options and arguments with one name and one meaning in all commands. They are decorators.
TASKS = click.argument(
    "tasks", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
MODEL = click.option("--model", default="", metavar="MODEL", help=MODEL_HELP)
DEVICE = click.option(
    "--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps, ..."
)
POOLING = click.option(
    "--pooling",
    metavar="WAYS",
    help="Pooling over time: mean, std, max, joined by +. The default is the model's.",
)
DTYPE = click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Precision of the encoder.",
)


def models_option(more_help: str = "") -> Callable:
    """--model for commands that take several models."""
    help_text = f"{MODEL_HELP}{more_help} Repeatable."
    return click.option("--model", "models", multiple=True, metavar="[NAME=]MODEL", help=help_text)


def jobs_option(help_text: str = "Processes.") -> Callable:
    """--jobs; the default is the number of CPUs in the affinity of this process."""
    known = hasattr(os, "sched_getaffinity")
    allowed = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return click.option(
        "--jobs", type=click.IntRange(1), default=allowed, show_default=True, help=help_text
    )


def out_option(help_text: str, *, folder: bool | None = None, required: bool = True) -> Callable:
    """-o/--out: a folder, a file, or either (None) to write."""
    path = click.Path(file_okay=folder is not True, dir_okay=folder is not False, path_type=Path)
    return click.option("-o", "--out", type=path, required=required, metavar="OUT", help=help_text)


def named_models(texts: tuple[str, ...]) -> dict[str, str]:
    """[NAME=]MODEL texts -> model by name, the last part of its path if none is given; the embedded
    model if there are no texts. HearMwmaeError if names repeat.
    """
    models: dict[str, str] = {}
    for text in texts or ("",):
        name, separator, source = text.partition("=")
        if not (separator and name) or "/" in name:
            name, source = (Path(text).resolve().name if text else "embedded"), text
        if name in models:
            raise HearMwmaeError(
                f"two models have the same name: give them names, as in --model NAME={source}"
            )
        models[name] = source
    return models
