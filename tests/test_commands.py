"""The command line as a whole: every command has -h and one-line errors."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from eval.__main__ import main as evaluation
from hear_mwmae.cli import main
from hear_mwmae.cli.options import Command, Group


def walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for below, child in command.commands.items():
            yield from walk(f"{name} {below}", child)


COMMANDS = dict([*walk("hear-mwmae", main), *walk("eval", evaluation)])


def test_all_commands_are_walked():
    named = set(COMMANDS)
    assert {"hear-mwmae probe", "hear-mwmae pretrain", "eval predict"} <= named


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("name", COMMANDS)
def test_help(name, flag):
    result = CliRunner().invoke(COMMANDS[name], [flag])
    assert (
        result.exit_code == 0 and result.output.startswith("Usage: ") and len(result.output) > 150
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_errors_are_one_line_in_all_of_them(name):
    assert any("--debug" in parameter.opts for parameter in COMMANDS[name].params)
    assert isinstance(COMMANDS[name], Command | Group)
