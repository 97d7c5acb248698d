"""What a person can mend is one line; what is a bug keeps its traceback."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hear_tasks import make_task
from tiny_run import tiny_recipe

from eval import log_mel
from eval.__main__ import main as eval_main
from hear_mwmae import HearMwmaeError
from hear_mwmae.audio import read_audio
from hear_mwmae.cli import main
from hear_mwmae.cli.options import Command
from hear_mwmae.config import ModelConfig
from hear_mwmae.training.crops import Batches, read_ahead
from hear_mwmae.training.dataset import AudioDataset
from hear_mwmae.training.recipe import Recipe
from hear_mwmae.training.sampler import StepSampler
from hear_mwmae.weights import read_config, read_model


def run(*args: object, command: click.Command = main) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])


@contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder that is open to everybody, in a process that is not root, for which no file is
    unreadable.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        was = os.geteuid()
        if was == 0:
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(was)


def test_a_bug_keeps_its_traceback(monkeypatch):
    """A shape error of NumPy is a ValueError, as a bad model's name is."""
    monkeypatch.setattr(ModelConfig, "from_dict", lambda values: np.zeros(2) + np.zeros(3))
    result = run("info")
    assert type(result.exception) is ValueError and "broadcast" in str(result.exception)
    assert "Error:" not in result.stderr


MISSING = FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b")
DENIED = PermissionError(errno.EACCES, "Permission denied", b"a/\xff")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MISSING, "Error: a/b: No such file or directory\n"),
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

    result = run(command=command)
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
    with as_nobody() as folder:
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
        (folder / "closed").mkdir(0)
        with pytest.raises(HearMwmaeError, match=r"(?i)permission denied"):
            read_audio(folder / "closed" / "x", 16000)
        (folder / "closed").chmod(0o700)


def test_a_bug_in_embedding_a_task_is_shown_and_stops_no_other(tmp_path, monkeypatch):
    for name in ("one", "two"):
        make_task(tmp_path / "tasks" / name, "multiclass", 0.5)

    def scenes(audio: object, model: object) -> object:
        seen.append(len(audio))
        if len(seen) == 1:
            raise TypeError("an injected bug")
        return original(audio, model)

    seen, original = [], log_mel.get_scene_embeddings
    monkeypatch.setattr(log_mel, "get_scene_embeddings", scenes)
    words = ["embed", tmp_path / "tasks", "-o", tmp_path / "out", "--module", "eval.log_mel"]
    result = run(*words, command=eval_main)
    assert result.exit_code == 1 and "Traceback" in result.output
    assert "TypeError: an injected bug" in result.output
    assert "1 of 2 tasks embedded" in result.output
