"""What a person can mend is one line; what is a bug keeps its traceback."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from tiny_run import tiny_recipe

from hear_mwmae import HearMwmaeError, available_models
from hear_mwmae.audio import read_audio
from hear_mwmae.cli.options import Command
from hear_mwmae.training.crops import Batches, read_ahead
from hear_mwmae.training.dataset import AudioDataset
from hear_mwmae.training.recipe import Recipe
from hear_mwmae.training.sampler import StepSampler
from hear_mwmae.weights import read_config, read_model


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


@pytest.mark.parametrize(("workers", "bug"), [(0, ValueError), (1, RuntimeError)])
def test_a_bug_in_a_reading_process_keeps_its_traceback(data, tmp_path, monkeypatch, workers, bug):
    """It is not said to be a clip or a process that ended."""

    def fail(self: AudioDataset, clip: int) -> None:
        raise bug("an injected bug")

    monkeypatch.setattr(AudioDataset, "__getitem__", fail)
    dataset = AudioDataset(data)
    sampler = StepSampler(dataset, tiny_recipe(tmp_path))
    with pytest.raises(bug, match="an injected bug") as caught:
        next(read_ahead(Batches(dataset, sampler), range(2), workers))
    assert type(caught.value) is bug


def test_unreadable_files_say_so():
    """None is called damaged, or missing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        available_models()  # read while the package may be
        was = os.geteuid()
        os.seteuid(was or 65534)  # root may read every file
        try:
            for name, load in (
                ("a.wav", lambda file: read_audio(file, 16000)),
                ("m.safetensors", read_model),
                ("checkpoint_1", read_model),
                ("recipe.toml", Recipe.read),
                ("config.json", read_config),
            ):
                (folder / name).touch(0)
                with pytest.raises(HearMwmaeError, match=r"(?i)permission denied"):
                    load(folder / name)
        finally:
            os.seteuid(was)
