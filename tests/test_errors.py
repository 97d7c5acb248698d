"""What a person can mend is one line; what is a bug keeps its traceback."""

from __future__ import annotations

import errno

import click
import pytest
from click.testing import CliRunner, Result

from hear_mwmae import HearMwmaeError
from hear_mwmae.cli.options import Command


def run(command: click.Command, *args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])


DENIED = PermissionError(errno.EACCES, "Permission denied", b"a/\xff")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DENIED, "Error: a/\\xff: Permission denied\n"),
        (HearMwmaeError("a \udcff name"), "Error: a \\xff name\n"),
        (OSError("which names no file"), None),
        (ValueError("of some library"), None),
    ],
)
def test_which_errors_are_one_line(error, line):
    @click.command(cls=Command)
    def command() -> None:
        raise error

    result = run(command)
    if line is None:
        assert result.exception is error
    else:
        assert (result.exit_code, result.stderr) == (1, line)
