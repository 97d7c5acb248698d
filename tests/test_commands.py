"""The command line as a whole: every command has -h, and an option has one spelling and one meaning
everywhere.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import defaultdict
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

import corpora
from eval.__main__ import main as evaluation
from hear_mwmae.cli import main
from hear_mwmae.cli.options import Command, Group

#: The spellings of options that commands share. One that is here is an option of the same kind in
#: every command that has it.
SHARED = {
    "--debug": ("--debug",),
    "--device": ("--device",),
    "--dry-run": ("--dry-run",),
    "--jobs": ("--jobs",),
    "--model": ("--model",),
    "--out": ("-o", "--out"),
    "--pooling": ("--pooling",),
    "--seed": ("--seed",),
    "--set": ("--set",),
}
FLAGS = {"--debug", "--dry-run", "--quiet", "--resume", "--private", "--timestamps"}


def walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for below, child in command.commands.items():
            yield from walk(f"{name} {below}", child)


def corpora_commands() -> Iterator[tuple[str, click.Command]]:
    for module in pkgutil.iter_modules(corpora.__path__):
        for value in vars(importlib.import_module(f"corpora.{module.name}")).values():
            if isinstance(value, click.Command):
                yield f"corpora.{module.name}", value


COMMANDS = dict([*walk("hear-mwmae", main), *walk("eval", evaluation), *corpora_commands()])


def options() -> Iterator[tuple[str, click.Option]]:
    for name, command in COMMANDS.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield name, parameter


def test_all_commands_are_walked():
    named = set(COMMANDS)
    assert {"hear-mwmae probe", "hear-mwmae publish", "eval predict", "corpora.speech", "corpora.dev_tasks"} <= named
    assert len(named) > 25


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("name", COMMANDS)
def test_help(name, flag):
    result = CliRunner().invoke(COMMANDS[name], [flag])
    assert result.exit_code == 0 and result.output.startswith("Usage: ") and len(result.output) > 150


@pytest.mark.parametrize("name", COMMANDS)
def test_errors_are_one_line_in_all_of_them(name):
    assert any("--debug" in parameter.opts for parameter in COMMANDS[name].params)
    assert isinstance(COMMANDS[name], Command | Group)


def test_an_option_is_spelled_alike_and_means_the_same_everywhere():
    kinds = defaultdict(lambda: defaultdict(list))
    for name, option in options():
        value = option.type.name.removesuffix(" range")
        kind = (tuple(option.opts), option.is_flag, {"choice": "text", "file": "path", "directory": "path"}.get(value, value))
        for spelling in option.opts:
            kinds[spelling][kind].append(name)
    assert not {spelling: dict(found) for spelling, found in kinds.items() if len(found) > 1}
    for long, expected in SHARED.items():
        assert next(iter(kinds[long]))[0] == expected and len(next(iter(kinds[long].values()))) > 1
    assert {spelling for spelling in FLAGS if not next(iter(kinds[spelling]))[1]} == set()
