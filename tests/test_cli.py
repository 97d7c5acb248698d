"""The commands, through the real entry point."""

import errno
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from reference import AUDIO

import hear_mwmae
from hear_mwmae import HearMwmaeError
from hear_mwmae.cli import main
from hear_mwmae.cli.options import Command


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_embed_prints_a_line_per_file(saved_model):
    clips = [AUDIO / "crow.wav", AUDIO / "glass.mp3"]
    result = run("embed", *clips, "--model", saved_model)
    lines = [line.split(":")[0] for line in result.stdout.splitlines() if "160 float32" in line]
    assert result.exit_code == 0 and lines == [str(path) for path in clips]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["embed", "missing.wav"], "missing.wav"),
        (["embed", "{clip}", "-o", "{tmp}/out.txt"], ".parquet"),
        (["embed", "{clip}", "-o", "{tmp}/no/out.npz"], "there is no folder"),
        (["embed", "{clip}", "-o", "/proc/out.npz"], "cannot write /proc/out.npz"),
        (["embed", "{clip}", "--device", "toaster"], "'toaster'"),
        (["push", "{tmp}", "org/repo"], "no model"),
        (["push", "{model}", "org/repo@main"], "cannot push to org/repo@main: Repo id"),
    ],
)
def test_errors_are_one_line_and_a_code(tmp_path, saved_model, args, message):
    clip = AUDIO / "crow.wav"
    result = run(*(arg.format(tmp=tmp_path, clip=clip, model=saved_model) for arg in args))
    assert result.exit_code == 1
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1


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

    result = CliRunner().invoke(command)
    if line is None:
        assert result.exception is error
    else:
        assert (result.exit_code, result.stderr) == (1, line)


def test_info(saved_model):
    text = run("info").stdout
    assert "9,574,656 weights" in text and "2, 5, 10, 25, 50, 125, global, global" in text
    assert "3840 numbers per clip, mean+std+max over time" in text
    assert "width 32" in run("info", saved_model).stdout


def test_the_installed_command():
    command = [Path(sys.executable).with_name("hear-mwmae"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and hear_mwmae.__version__ in done.stdout


def test_importing_takes_nothing_that_only_models_training_or_evaluation_need():
    heavy = ["sklearn", "pandas", "pyarrow", "av", "torch", "hear_mwmae.mae", "hear_mwmae.training"]
    code = f"import sys, hear_mwmae; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
