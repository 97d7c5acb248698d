"""The commands, through the real entry point."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner, Result
from huggingface_hub import ModelCard
from reference import AUDIO

import hear_mwmae
from hear_mwmae import HearMwmaeError
from hear_mwmae.card import model_card
from hear_mwmae.cli import main
from hear_mwmae.cli.options import Command
from hear_mwmae.weights import DEFAULT_MODEL, WEIGHTS_DIR


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
        (["embed", "{clip}", "-o", "/proc/out.npz"], "cannot write /proc/out.npz"),
        (["embed", "{clip}", "--device", "toaster"], "'toaster'"),
        (["push", "{tmp}", "org/repo", "--dry-run", "-o", "{tmp}/up"], "no model"),
        (["push", "{model}", "org/repo", "--dry-run", "-o", "{model}"], "is not an empty folder"),
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


def test_a_dry_run_of_the_embedded_model(tmp_path, embedded_model):
    command = ["push", WEIGHTS_DIR / DEFAULT_MODEL, "some-org/tiny", "--dry-run"]
    result = run(*command, "-o", tmp_path / "up")
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "up").iterdir())
    assert names == ["README.md", "audio.csv", "config.json", "loss.png", "model.safetensors"]
    card = ModelCard.load(tmp_path / "up" / "README.md")
    assert card.data.library_name == "hear-mwmae"
    assert card.data.pipeline_tag == "feature-extraction" and card.data.license == "apache-2.0"
    assert "pitch" in [row.dataset_name for row in card.data.eval_results]
    assert 'load_model("some-org/tiny")' in card.text
    audio = torch.ones(1, 4000).cumsum(1) % 1
    uploaded = hear_mwmae.load_model(str(tmp_path / "up")).scene_embeddings(audio)
    assert torch.equal(uploaded, embedded_model.scene_embeddings(audio))


def test_the_card_says_how_to_get_the_papers_pooling(model_dir):
    values = json.loads((model_dir / "config.json").read_text())
    assert "pooling" not in model_card(model_dir, "org/model")
    (model_dir / "config.json").write_text(json.dumps(values | {"pooling": "mean+std+max"}))
    card = model_card(model_dir, "org/model")
    assert "(clips, 480)" in card and "160 numbers per clip" in card
    assert 'load_model("org/model", pooling="mean")' in card


def test_a_wrong_card_is_one_line(model_dir, tmp_path):
    (model_dir / "card.json").write_text('{"results": [{"task": "a", "metric": "b"}]}')
    result = run("push", model_dir, "org/repo", "--dry-run", "-o", tmp_path / "up")
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1
    assert "card.json: results.0.value: Field required" in result.stderr


def test_the_installed_command():
    command = [Path(sys.executable).with_name("hear-mwmae"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and hear_mwmae.__version__ in done.stdout


def test_importing_takes_nothing_that_only_models_training_or_evaluation_need():
    heavy = ["sklearn", "pandas", "pyarrow", "av", "torch", "hear_mwmae.mae", "hear_mwmae.training"]
    code = f"import sys, hear_mwmae; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
