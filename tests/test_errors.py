"""What a person can mend is one line; what is a bug keeps its traceback."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import forked
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hear_tasks import make_task
from tiny_run import tiny_recipe

from eval import log_mel
from eval.__main__ import main as eval_main
from eval.results import Result as HearResult
from hear_mwmae import HearMwmaeError
from hear_mwmae.audio import read_audio
from hear_mwmae.cli import main
from hear_mwmae.cli.options import Command
from hear_mwmae.config import ModelConfig
from hear_mwmae.errors import did_you_mean, reason
from hear_mwmae.files import printable, read_json, replacing
from hear_mwmae.training import progress
from hear_mwmae.training.crops import Clips, read_batches
from hear_mwmae.training.dataset import AudioDataset
from hear_mwmae.training.loop import pretrain
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
    assert type(result.exception) is ValueError and "could not be broadcast" in str(
        result.exception
    )
    assert "Error:" not in result.stderr


def test_a_bad_model_is_one_line_unless_debugging():
    result = run("info", "nonsense")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert (
        result.stderr.startswith("Error: no model 'nonsense'")
        and len(result.stderr.splitlines()) == 1
    )
    for args in (("--debug", "info", "nonsense"), ("info", "nonsense", "--debug")):
        assert isinstance(run(*args).exception, HearMwmaeError)


def test_debug_of_the_evaluation(tmp_path):
    assert run("check", tmp_path, command=eval_main).stderr.startswith("Error: ")
    assert isinstance(
        run("--debug", "check", tmp_path, command=eval_main).exception, HearMwmaeError
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b"),
            "Error: a/b: No such file or directory\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", b"a/\xff"),
            "Error: a/\\xff: Permission denied\n",
        ),
        (HearMwmaeError("a \udcff name"), "Error: a \\xff name\n"),
        (OSError("which names no file"), None),
        (BrokenPipeError(errno.ETIMEDOUT, "Timed out"), None),
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
    assert run("--debug", command=command).exception is error


def test_a_full_disk_is_named(tmp_path):
    """What the system raises names no file, and would keep its traceback."""
    with pytest.raises(OSError) as caught, replacing(tmp_path / "table.csv"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "table.csv")


def test_a_bug_in_a_probe_ends_the_run_with_its_traceback(data, task, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "probe", lambda *_: np.zeros(2) + np.zeros(3))
    with pytest.raises(ValueError, match="broadcast") as caught:
        pretrain(tiny_recipe(tmp_path), data, tmp_path / "run", eval_every=4, tasks=(task,))
    assert not isinstance(caught.value, HearMwmaeError)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("bug", [ValueError, RuntimeError])
def test_a_bug_in_a_reading_process_keeps_its_traceback(data, tmp_path, monkeypatch, workers, bug):
    """It is not said to be a clip or a process that ended."""

    def fail(pcm: object, speed: object) -> None:
        raise bug("an injected bug")

    monkeypatch.setattr("hear_mwmae.training.crops.change_speed", fail)
    dataset = AudioDataset(data)
    sampler = StepSampler(dataset, tiny_recipe(tmp_path))
    with pytest.raises(bug, match="an injected bug") as caught:
        next(read_batches(Clips(dataset, sampler.clips), sampler.steps(0, 2), workers))
    assert type(caught.value) is bug


def test_damaged_results_are_named(tmp_path):
    """As left by an editor, say."""
    result = HearResult(tmp_path / "task", "paper", 0)
    result.file.parent.mkdir(parents=True)
    result.embeddings.mkdir()
    (result.embeddings / "about.json").write_text('{"made": "x"}')
    result.file.write_text("{")
    with pytest.raises(HearMwmaeError, match=r"seed-0\.json"):
        result.is_done()


def test_a_damaged_task_is_one_line(tmp_path):
    make_task(tmp_path / "tasks" / "tones", "multiclass", 0.5)
    (tmp_path / "tasks" / "tones" / "fold00.json").write_text("{")
    result = run("check", tmp_path / "tasks", command=eval_main)
    assert result.exit_code == 1 and "fold00.json" in result.output


def test_read_json(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 200_000)
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xff"}')
    for name in ("deep.json", "latin.json", "missing.json", "."):
        with pytest.raises(HearMwmaeError, match=str(tmp_path)):
            read_json(tmp_path / name)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "No such file or dir"),
        (RuntimeError("The device is gone.\nStack:\n..."), "The device is gone"),
        (KeyError(), "KeyError"),
    ],
)
def test_why_something_failed_is_one_line(error, said):
    assert reason(error).startswith(said) and "\n" not in reason(error)


def test_names_that_are_no_utf8_can_be_printed():
    assert printable("plain/ünïcode.wav") == "plain/ünïcode.wav"
    assert printable(os.fsdecode(b"caf\xe9.wav")) == "caf\\xe9.wav"
    printable("\ud800").encode()  # from JSON; no file has it


def test_did_you_mean():
    assert did_you_mean("mwmae_tiny", ["mwmae-tiny", "other"]) == "; did you mean 'mwmae-tiny'?"
    assert did_you_mean("nonsense", ["mwmae-tiny", "other"]) == ""


def test_unreadable_files_say_so():
    """Audio, weights, recipes, checkpoints of the authors' code: none is called damaged, or
    missing.
    """
    with as_nobody() as folder:
        files = [
            folder / name
            for name in ("a.wav", "m.safetensors", "checkpoint_1", "recipe.toml", "config.json")
        ]
        for file in files:
            os.close(os.open(file, os.O_CREAT, 0))
        readers = (
            lambda file: read_audio(file, 16000),
            read_model,
            read_model,
            Recipe.read,
            read_config,
        )
        for load, file in zip(readers, files, strict=True):
            with pytest.raises(HearMwmaeError, match=r"(?i)permission denied"):
                load(file)
        (folder / "closed").mkdir(0)
        for load in (lambda f: read_audio(f, 16000), read_model):
            with pytest.raises(HearMwmaeError, match=r"(?i)permission denied"):
                load(folder / "closed" / "x")
        (folder / "closed").chmod(0o700)


def test_names_that_are_no_utf8(audio_folder, tmp_path):
    """Files of such names are found in folders and by manifests, and packed; other bytes are
    written as \\xff.
    """
    good, bad = (os.fsdecode(name) for name in (b"gr\xfc\xdfe.flac", b"kaputt \xff.wav"))
    folder = tmp_path / os.fsdecode(b"\xe9t\xe9")
    folder.mkdir()
    shutil.copy(audio_folder / "crow.flac", folder / good)
    (folder / bad).write_bytes(b"no audio")
    manifest = os.fsencode(folder / "list.csv")
    Path(os.fsdecode(manifest)).write_bytes(
        b"path,kind\ngr\xfc\xdfe.flac,d\xfcnn\nkaputt \xff.wav,x\n"
    )
    for number, source in enumerate((folder, folder / "list.csv")):
        result = run("pack", source, "-o", tmp_path / f"pack{number}", "--jobs", "1")
        assert result.exit_code == 0 and "1 clips" in result.output, result.output
        out = tmp_path / f"pack{number}"
        assert printable(folder / bad) in (out / "skipped.csv").read_text(encoding="utf-8")
        dataset = AudioDataset(out)
        assert dataset.rows[0]["path"].endswith(printable(good))
    assert dataset.kinds == ["d\\xfcnn"]
    assert read_audio(folder / good, 16000).numel()


def test_a_folder_of_such_a_name_is_printed(audio_folder, tmp_path):
    """Arrow files cannot be made there, which is said in one line."""
    out = tmp_path / os.fsdecode(b"\xff")
    done = forked.run("pack", audio_folder / "crow.flac", "-o", out, "--jobs", "1")
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1 and line.endswith(r"\xff: the name of a data set must be UTF-8")


@pytest.mark.parametrize("bug", [ValueError, TypeError, RuntimeError])
def test_a_bug_in_embedding_a_task_is_shown_and_stops_no_other(tmp_path, monkeypatch, bug):
    for name in ("one", "two"):
        make_task(tmp_path / "tasks" / name, "multiclass", 0.5)

    def scenes(audio: object, model: object) -> object:
        seen.append(len(audio))
        if len(seen) == 1:
            raise bug("an injected bug")
        return original(audio, model)

    seen, original = [], log_mel.get_scene_embeddings
    monkeypatch.setattr(log_mel, "get_scene_embeddings", scenes)
    result = run(
        "embed",
        tmp_path / "tasks",
        "-o",
        tmp_path / "out",
        "--module",
        "eval.log_mel",
        command=eval_main,
    )
    assert (
        result.exit_code == 1
        and f"{bug.__name__}: an injected bug" in result.output
        and "Traceback" in result.output
    )
    assert "1 of 2 tasks embedded" in result.output
