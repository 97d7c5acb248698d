"""What a run is computed on: two processes that are really joined, parts of a batch, bfloat16, a
compiler; and dry runs.
"""

import dataclasses
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from click.testing import CliRunner
from forked import run_two
from tiny_run import losses, tiny_recipe, write_recipe

from hear_mwmae.cli import main
from hear_mwmae.encoder import Mlp
from hear_mwmae.training.fabric import settle_precision
from hear_mwmae.training.loop import pretrain
from hear_mwmae.training.recipe import Recipe


def test_compiled(data, tmp_path, monkeypatch, recwarn):
    """Traced with its gradients; the code is not generated, which takes minutes."""
    compiled = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", compiled)
    recipe = tiny_recipe(tmp_path, optimizer="adamw", steps=4)
    pretrain(recipe, data, tmp_path / "plain")
    pretrain(dataclasses.replace(recipe, compile=True), data, tmp_path / "compiled")
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), abs=1e-4)
    assert not [warning for warning in recwarn if "lru_cache" in str(warning.message)]


@pytest.mark.parametrize(
    ("optimizer", "strategy", "layout", "tolerance"),
    [
        ("muon", "ddp", ["accumulate=2"], 1e-3),  # its orthogonalisation amplifies roundings
        ("adamw", "fsdp", ["accumulate=2", "activation_checkpointing=true"], 1e-5),
    ],
)
def test_two_processes_compute_what_one_does(
    data, tmp_path, optimizer, strategy, layout, tolerance
):
    """Really two, joined by gloo: the same losses, and one log and one model."""
    settings = {"optimizer": optimizer, "strategy": strategy, "steps": 4}
    recipe = write_recipe(tmp_path / "recipe.toml", **settings)
    pretrain(Recipe.read(recipe), data, tmp_path / "one", "cpu")
    command = ["pretrain", recipe, data, tmp_path / "two", "--device", "cpu"]
    command += [word for change in layout for word in ("--set", change)]
    done = run_two(*command)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=tolerance)
    assert (tmp_path / "two" / "model" / "model.safetensors").is_file()
    # On from there, and on with one process.
    done = run_two(*command, "--set", "steps=6")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model:") == 1
    pretrain(Recipe.read(recipe, ["steps=8", "strategy=ddp"]), data, tmp_path / "two", "cpu")
    for steps in (6, 8):
        pretrain(Recipe.read(recipe, [f"steps={steps}"]), data, tmp_path / "one", "cpu")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=tolerance)


def test_torchrun(data, tmp_path):
    """Which sets what joins the processes above. One process: each takes seconds to import."""
    recipe = write_recipe(tmp_path / "recipe.toml", optimizer="adamw", steps=2)
    pretrain(Recipe.read(recipe), data, tmp_path / "one", "cpu")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1"]
    command += ["-m", "hear_mwmae.cli", "pretrain", recipe, data, tmp_path / "two"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, command), "--device", "cpu"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)


@pytest.mark.parametrize(
    ("change", "blocks"), [("accumulate=4", 4), ("activation_checkpointing=true", 2)]
)
def test_the_layout_of_the_computation_does_not_change_it(
    data, tmp_path, monkeypatch, change, blocks
):
    """But how often the encoder's one block runs in a step: once a part, and once more in a
    backward pass that recomputes.
    """
    calls, forward = [], Mlp.forward
    monkeypatch.setattr(Mlp, "forward", lambda self, x: calls.append(len(x)) or forward(self, x))
    recipe = write_recipe(tmp_path / "recipe.toml", optimizer="adamw", steps=4)
    pretrain(Recipe.read(recipe), data, tmp_path / "plain")
    plain = len(calls)
    pretrain(Recipe.read(recipe, [change]), data, tmp_path / "other")
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)
    assert len(calls) - plain == blocks * plain


def test_bfloat16_is_near_float32(data, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.toml", optimizer="adamw", steps=6)
    pretrain(Recipe.read(recipe), data, tmp_path / "float32")
    pretrain(Recipe.read(recipe, ["precision=bfloat16"]), data, tmp_path / "bfloat16")
    one, other = losses(tmp_path / "float32"), losses(tmp_path / "bfloat16")
    assert one != other and one == pytest.approx(other, rel=0.02)


def test_a_batch_that_cannot_be_shared(data, tmp_path):
    with pytest.raises(ValueError, match="batch_size 8 cannot be shared by 1 processes"):
        pretrain(tiny_recipe(tmp_path, accumulate=3), data, tmp_path / "run")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has one")
def test_an_accelerator_that_is_not_there(tmp_path):
    recipe = write_recipe(tmp_path / "recipe.toml", precision="auto")
    command = ["pretrain", recipe, tmp_path, tmp_path / "run", "--device", "cuda"]
    result = CliRunner().invoke(main, list(map(str, command)))
    assert result.exit_code == 1 and "accelerator 'cuda' cannot be had here" in result.output


def test_dry_run(tmp_path):
    path = write_recipe(tmp_path / "recipe.toml")
    command = ["pretrain", str(path), "--dry-run", "--set", "steps=3600000"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    for text in ("3,600,000 of 8 crops (28,800,000)", "22,848 weights", "Muon 0.01"):
        assert text in result.output
    result = CliRunner().invoke(main, ["pretrain", str(path)])
    assert result.exit_code == 2 and "DATA and RUN are needed" in result.output


def test_precision(tmp_path, monkeypatch):
    """float32 on a CPU and bfloat16 elsewhere, unless the recipe says which."""
    auto = tiny_recipe(tmp_path, precision="auto")
    for accelerator, precision in ((None, "float32"), (torch.device("cuda"), "bfloat16")):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda a=accelerator, **_: a)
        assert settle_precision(auto).precision == precision
    assert settle_precision(auto, "cpu").precision == "float32"
    asked = tiny_recipe(tmp_path, precision="bfloat16")
    assert settle_precision(asked, "cpu").precision == "bfloat16"
