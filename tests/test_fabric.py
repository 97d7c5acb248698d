"""What a run is computed on: two processes that are really joined, parts of a batch, bfloat16, a
compiler; and dry runs.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from forked import run_two
from tiny_run import losses, tiny_recipe, write_recipe

from hear_mwmae.cli import main
from hear_mwmae.encoder import Mlp
from hear_mwmae.training import precision
from hear_mwmae.training.loop import pretrain
from hear_mwmae.training.precision import settle_precision
from hear_mwmae.training.recipe import Recipe


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a compiler")
def test_compiled(data, tmp_path, recwarn):
    """Looked at on the way, which is inference, and not the compiler's business."""
    model = {"encoder": {"width": 32, "depth": 1, "heads": 2}}
    model["decoder"] = {"width": 32, "depth": 1, "heads": 2, "window_sizes": [25, 0]}  # each window size takes seconds to compile
    recipe = tiny_recipe(tmp_path, model=model, optimiser="adamw", steps=4, warmup_steps=1, decay_steps=1)
    pretrain(recipe, data, tmp_path / "plain")
    pretrain(dataclasses.replace(recipe, compile=True), data, tmp_path / "compiled", look_every=2)
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), abs=1e-4)
    assert len(list((tmp_path / "compiled" / "pictures").iterdir())) == 2
    assert not [warning for warning in recwarn if "lru_cache" in str(warning.message)]


@pytest.mark.parametrize(
    ("optimiser", "strategy", "layout", "tolerance"),
    [
        ("adamw", "ddp", ["accumulate=2"], 1e-5),
        ("muon", "ddp", [], 1e-3),  # its orthogonalisation amplifies roundings
        ("adamw", "fsdp", ["accumulate=2", "activation_checkpointing=true"], 1e-5),
    ],
)
def test_two_processes_compute_what_one_does(data, task, tmp_path, optimiser, strategy, layout, tolerance):
    """Really two, joined by gloo: the same losses, and one log and one model."""
    recipe = write_recipe(tmp_path / "recipe.toml", optimiser=optimiser, strategy=strategy, clip_gradient=0.5)
    pretrain(Recipe.read(recipe), data, tmp_path / "one", "cpu")
    command = ["pretrain", recipe, data, tmp_path / "two", "--device", "cpu"]
    command += [word for change in layout for word in ("--set", change)]
    done = run_two(*command)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=tolerance)
    assert (tmp_path / "two" / "model" / "model.safetensors").is_file()
    # On from there, watched: both processes look, one of them writes.
    more = [*command, "--set", "steps=14", "--look-every", "2"] + ["--probe", task] * (strategy == "ddp")
    for _ in range(2):
        done = run_two(*more)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("model:") == 1
    if strategy == "ddp":
        assert [line.split(",")[0] for line in (tmp_path / "two" / "probes.csv").read_text().split()] == ["step", "12", "14"]
    done = run_two(*command, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"2, each {2 if 'accumulate=2' in layout else 4} crops at a time" in done.stdout
    assert "hours for 12 steps" in done.stdout
    # And on with one process.
    pretrain(Recipe.read(recipe, ["steps=18", "strategy=ddp"]), data, tmp_path / "two", "cpu")
    pretrain(Recipe.read(recipe, ["steps=14"]), data, tmp_path / "one", "cpu")
    pretrain(Recipe.read(recipe, ["steps=18"]), data, tmp_path / "one", "cpu")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=tolerance)


def test_torchrun(data, tmp_path):
    """What joins the processes above is what torchrun sets."""
    recipe = write_recipe(tmp_path / "recipe.toml", optimiser="adamw", steps=2, warmup_steps=1, decay_steps=1)
    pretrain(Recipe.read(recipe), data, tmp_path / "one", "cpu")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "hear_mwmae.cli", "pretrain"]
    command += [recipe, data, tmp_path / "two", "--device", "cpu"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)


@pytest.mark.parametrize(("change", "blocks"), [("accumulate=4", 4), ("activation_checkpointing=true", 2)])
def test_the_layout_of_the_computation_does_not_change_it(data, tmp_path, monkeypatch, change, blocks):
    """But how often the encoder's one block runs in a step: once a part, and once more in a
    backward pass that recomputes.
    """
    calls, forward = [], Mlp.forward
    monkeypatch.setattr(Mlp, "forward", lambda self, x: calls.append(len(x)) or forward(self, x))
    recipe = write_recipe(tmp_path / "recipe.toml", optimiser="adamw")
    pretrain(Recipe.read(recipe), data, tmp_path / "plain")
    plain = len(calls)
    pretrain(Recipe.read(recipe, [change]), data, tmp_path / "other")
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)
    assert len(calls) - plain == blocks * plain


def test_bfloat16_is_near_float32(data, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.toml", optimiser="adamw")
    pretrain(Recipe.read(recipe), data, tmp_path / "float32")
    pretrain(Recipe.read(recipe, ["precision=bfloat16"]), data, tmp_path / "bfloat16")
    one, other = losses(tmp_path / "float32"), losses(tmp_path / "bfloat16")
    assert one != other and one == pytest.approx(other, rel=0.02)


def test_a_batch_that_cannot_be_shared(data, tmp_path):
    with pytest.raises(ValueError, match="batch_size 8 cannot be shared by 1 processes with accumulate = 3"):
        pretrain(tiny_recipe(tmp_path, accumulate=3), data, tmp_path / "run")


@pytest.mark.parametrize("accelerator", ["cuda", "mps"])
def test_an_accelerator_that_is_not_there(tmp_path, accelerator):
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("has one")
    recipe = str(write_recipe(tmp_path / "recipe.toml", precision="auto"))
    result = CliRunner().invoke(main, ["pretrain", recipe, "--dry-run", "--device", accelerator])
    assert result.exit_code == 1 and f"accelerator '{accelerator}' cannot be had here" in result.output


def test_dry_run(tmp_path):
    path = write_recipe(tmp_path / "recipe.toml")
    result = CliRunner().invoke(main, ["pretrain", str(path), "--dry-run", "--set", "steps=3600000", "--set", "workers=9"])
    assert result.exit_code == 0, result.output
    for text in (
        "8 x 200 frames x 80 bands, 250 tokens, 50 kept",
        "GiB of activations",
        "up to 0.04 GiB of audio, read ahead by 9 workers",  # 2 batches each of 8 clips of 320 kB
        "hours for 3,600,000 steps",
        "windows 2, 5",
    ):
        assert text in result.output
    assert not list(tmp_path.glob("*/"))
    result = CliRunner().invoke(main, ["pretrain", str(path), "--dry-run", "--set", "resident=true"])
    assert "0.11 GiB per hour of the pack" in result.output and "read ahead" not in result.output
    result = CliRunner().invoke(main, ["pretrain", str(path), "--dry-run", "--set", "accumulate=3"])
    assert result.exit_code == 1 and "cannot be shared" in result.output
    result = CliRunner().invoke(main, ["pretrain", str(path)])
    assert result.exit_code == 2 and "DATA and RUN are needed" in result.output


def test_auto_precision_is_measured_once_and_kept(data, tmp_path, monkeypatch):
    """In the checkpoints: the machine that a run goes on with may be another one."""
    recipe = tiny_recipe(tmp_path, precision="auto", steps=4, warmup_steps=1, decay_steps=1)
    monkeypatch.setattr(precision, "faster_precision", lambda device: "bfloat16")
    pretrain(recipe, data, tmp_path / "run")
    assert settle_precision(recipe, tmp_path / "run").precision == "bfloat16"
    monkeypatch.setattr(precision, "faster_precision", lambda device: "float32")
    pretrain(dataclasses.replace(recipe, steps=8), data, tmp_path / "run")
    pretrain(dataclasses.replace(recipe, steps=8, precision="bfloat16"), data, tmp_path / "explicit")
    assert losses(tmp_path / "run") == losses(tmp_path / "explicit")
    assert settle_precision(recipe, tmp_path / "other").precision == "float32"
