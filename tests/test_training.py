"""Pretraining: schedule, optimizers, runs that are really killed, and what is kept of them."""

import multiprocessing
import os
import resource
import shutil
import signal
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from tiny_run import log, losses, tiny_recipe, write_recipe

import hear_mwmae
from hear_mwmae.cli import main
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.training import loop
from hear_mwmae.training.loop import pretrain
from hear_mwmae.training.optim import Muon, make_optimizers, orthogonalize, schedule
from hear_mwmae.training.pack import pack
from hear_mwmae.training.recipe import Recipe
from hear_mwmae.training.resume import newest_checkpoint

WEIGHTS = Path("model", "model.safetensors")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    """A run of twelve steps. Not to be changed: see run."""
    folder = tmp_path_factory.mktemp("finished")
    pretrain(tiny_recipe(folder), data, folder / "run")
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def checkpoints(run: Path) -> dict[str, bytes]:
    """Contents by name."""
    return {path.name: path.read_bytes() for path in sorted((run / "checkpoints").iterdir())}


def test_schedule(tmp_path):
    recipe = tiny_recipe(tmp_path)
    factors = [schedule(step, recipe, 3) for step in range(recipe.steps + 1)]
    cosine = [(1 + np.cos(np.pi * i / 6)) / 2 for i in range(7)]
    assert factors[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert factors[3:7] == [1, 1, 1, 1]
    assert factors[6:] == pytest.approx(cosine, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muon_is_torchs(dtype):
    """To the roundings of bfloat16, in which torch always orthogonalizes; from the same state, for
    matrices of several shapes.
    """
    torch.manual_seed(0)
    shapes = [(24, 8), (8, 24), (8, 8), (24, 8)]
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    mine = Muon(ours, 0.1, 0.05, dtype)
    torchs = torch.optim.Muon(theirs, 0.1, 0.05, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        mine.step()
        torchs.step()
        for one, other in zip(ours, theirs, strict=True):
            assert (one - other).norm() < 0.03 * (one - 1).norm()
            momentum = torchs.state[other]["momentum_buffer"]
            assert torch.equal(mine.state[one]["momentum_buffer"], momentum)
    converging = (1.5, -0.5, 0.0)  # a cubic
    exact = orthogonalize(torch.eye(8).mul(3).repeat(2, 1, 1), converging, 25, 1e-7)
    assert torch.allclose(exact, torch.eye(8).expand(2, 8, 8), atol=1e-5)


def test_muon_takes_the_hidden_matrices_only(tmp_path):
    recipe = tiny_recipe(tmp_path)
    model = MaskedAutoencoder(recipe.model_config())
    names = {id(weight): name for name, weight in model.named_parameters()}
    adamw, muon = (
        {names[id(weight)] for group in optimizer.param_groups for weight in group["params"]}
        for optimizer in make_optimizers(model, recipe)
    )
    assert adamw | muon == set(names.values()) and not adamw & muon
    assert all(name.endswith(".weight") and ".blocks." in name for name in muon) and len(muon) == 8
    optimizers = make_optimizers(model, recipe)
    decays = [group["weight_decay"] for optimizer in optimizers for group in optimizer.param_groups]
    assert set(decays) == {recipe.weight_decay} and recipe.weight_decay > 0


def test_the_loss_goes_down(data, tmp_path):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    recipe = tiny_recipe(tmp_path, steps=60)
    model = pretrain(recipe, data, tmp_path / "run")
    values = losses(tmp_path / "run")
    assert len(values) == 60 and np.mean(values[-5:]) < 0.6 * values[0]
    assert MaskedAutoencoder.from_pretrained(str(model)).config == recipe.model_config()
    assert hear_mwmae.load_model(str(model)).scene_embedding_size == 3 * 160  # mean, std, max
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_killed_and_started_again_ends_with_the_same_weights(data, tmp_path):
    """With a process that reads ahead, and signals to the whole group, as terminals, `timeout` and
    schedulers of clusters send them. Those that can be caught lose no step.
    """
    recipe = write_recipe(tmp_path / "recipe.toml", steps=50, checkpoint_every=4, workers=1)
    run = tmp_path / "parts"
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        rows = len(log(run))
        process = forked.start("pretrain", recipe, data, run)
        process.wait_until(lambda least=rows + 5: len(log(run)) >= least)
        os.killpg(process.pid, how)
        done = process.wait()
        assert done.returncode != 0
        if how != signal.SIGKILL:
            assert "the same command goes on from there" in done.stderr
            assert "Traceback" not in done.stderr
            assert newest_checkpoint(run).name == f"step-{len(log(run)):08d}.pt"
    assert forked.run("pretrain", recipe, data, run).returncode == 0
    pretrain(Recipe.read(recipe, ["workers=0"]), data, tmp_path / "whole")
    whole, parts = (load_file(folder / WEIGHTS) for folder in (tmp_path / "whole", run))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert losses(run) == losses(tmp_path / "whole")


def test_a_run_is_lengthened_and_keeps_its_warm_up(data, run, tmp_path):
    """Derived from the steps that it began with: the log says what the rates were."""
    recipe, longer = tiny_recipe(tmp_path), tiny_recipe(tmp_path, steps=60)
    (run / "checkpoints" / "step-00000012.pt").unlink()
    pretrain(longer, data, run)  # from step 10 on; its own warm-up would have 15 steps
    factors = [schedule(step, recipe, 3) for step in range(10)]
    factors += [schedule(step, longer, 3) for step in range(10, 60)]
    assert factors[10:15] == [1] * 5
    names = ("learning_rate", "muon_learning_rate")
    for name, peak in zip(names, recipe.learning_rates, strict=True):
        rates = [float(row[name]) for row in log(run)]
        assert rates == pytest.approx([factor * peak for factor in factors])


def test_a_run_that_is_not_ones_own_is_refused(data, audio_folder, run, tmp_path):
    """And stays as it is. Two processes would write what the other reads."""
    before = (run / WEIGHTS).read_bytes()
    recipe = tiny_recipe(tmp_path)
    opus = tmp_path / "opus"
    pack([str(audio_folder / "manifest.csv")], opus, "opus")
    deeper = {"encoder": {"width": 32, "depth": 2, "heads": 2}, "decoder": {"width": 32}}
    other = tiny_recipe(tmp_path, seed=1, model=deeper)
    for refused, source, folder, message in (
        (other, data, run, r"another recipe: .*model.encoder.depth 1 -> 2.*, seed 0 -> 1"),
        (tiny_recipe(tmp_path, steps=9), data, run, "12 steps on, more than the 9"),
        (recipe, opus, run, "a run on other data than .*opus"),
    ):
        with pytest.raises(ValueError, match=message):
            pretrain(refused, source, folder)
    with FileLock(run / ".lock"), pytest.raises(ValueError, match="another process is training"):
        pretrain(recipe, data, run)
    hears = Recipe.read(tmp_path / "recipe.toml", ["model.frontend.sample_rate=32000"])
    with pytest.raises(ValueError, match=r"hears 32000 Hz, the audio in .* has 16000"):
        pretrain(hears, data, tmp_path / "new")
    assert (run / WEIGHTS).read_bytes() == before


def test_a_run_explains_itself(data, tmp_path):
    """By its recipe, from which it goes on."""
    pretrain(tiny_recipe(tmp_path, precision="auto", steps=4), data, tmp_path / "run", "cpu")
    written = Recipe.read(tmp_path / "run" / "recipe.toml", ["steps=6"])
    assert (written.steps, written.precision) == (6, "float32")
    pretrain(written, data, tmp_path / "run", "cpu")
    assert len(log(tmp_path / "run")) == 6


def test_weights_that_are_not_finite_are_not_saved(data, run, tmp_path, monkeypatch):
    """The loss of a step is that before its update, so an update that breaks the model shows in the
    weights first.
    """
    before = checkpoints(run)
    step = torch.optim.AdamW.step

    def broken(self: torch.optim.AdamW) -> None:
        step(self)
        self.param_groups[0]["params"][0].data.fill_(torch.nan)

    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    with pytest.raises(ValueError, match="weights are no longer finite after step 12"):
        pretrain(tiny_recipe(tmp_path, steps=14, checkpoint_every=1), data, run)
    assert checkpoints(run) == before


def test_a_loss_that_is_not_finite_ends_the_run(data, tmp_path):
    """And its readers, while the error and its frames are there: the process would never end."""
    recipe = tiny_recipe(tmp_path, base_learning_rate=1e30, optimizer="adamw", workers=1)
    others = multiprocessing.active_children()  # joblib's, of tests before
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step") as kept:
        pretrain(recipe, data, tmp_path / "run")
    assert kept.value.__traceback__ and set(multiprocessing.active_children()) <= set(others)


@pytest.mark.parametrize("damage", ["overwritten", "code"])
def test_a_damaged_checkpoint(data, run, tmp_path, damage):
    class Code:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    weights = load_file(run / WEIGHTS)
    checkpoint = newest_checkpoint(run)
    content = checkpoint.read_bytes()
    middle = len(content) // 2
    if damage == "overwritten":
        checkpoint.write_bytes(content[:middle] + bytes(200) + content[middle + 200 :])
    else:
        torch.save({"identity": Code()}, checkpoint)
    with pytest.raises(ValueError, match=r"step-00000012.pt is no checkpoint .* remove it"):
        pretrain(tiny_recipe(tmp_path), data, run)
    assert not (tmp_path / "ran").exists()
    checkpoint.unlink()  # the one before is whole, and leads to the same end
    pretrain(tiny_recipe(tmp_path), data, run)
    again = load_file(run / WEIGHTS)
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def raise_full(*_: object) -> None:
    raise OSError("full")


def test_what_is_kept(data, run, tmp_path, monkeypatch):
    """The newest checkpoints, and the models that the recipe asks for: those of shorter runs."""
    assert list(checkpoints(run)) == [f"step-{step:08d}.pt" for step in (10, 12)]
    recipe = tiny_recipe(tmp_path, keep_every=7, steps=15)
    with monkeypatch.context() as full, pytest.raises(OSError, match="full"):
        full.setattr(loop, "save_model", raise_full)
        pretrain(recipe, data, run)
    pretrain(recipe, data, run)  # which comes to step 14 again
    assert list(checkpoints(run)) == [f"step-{step:08d}.pt" for step in (14, 15)]
    assert [path.name for path in run.glob("model-*")] == ["model-14"]
    rates = {"base_learning_rate": 0.0, "base_muon_learning_rate": 0.0}
    start = tiny_recipe(tmp_path, steps=1, start_from=str(run / "model-14"), **rates)
    pretrain(start, data, tmp_path / "other")
    kept = load_file(run / "model-14" / WEIGHTS.name)
    other = load_file(tmp_path / "other" / WEIGHTS)
    assert all(torch.equal(kept[name], other[name]) for name in kept)


def pretrain_with_small_files(limit: int, arguments: list[str]) -> None:
    """The command, in a process that may write no file of more bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    main(["pretrain", *arguments])


def test_a_full_disk_ends_the_run_with_one_line_and_loses_nothing(data, run, tmp_path):
    """The nearest thing to a full disk: no file may grow beyond a limit."""
    before = checkpoints(run)
    limit = len(before["step-00000012.pt"]) // 2
    recipe = write_recipe(tmp_path / "recipe.toml", steps=20)
    arguments = [str(path) for path in (recipe, data, run)]
    done = forked.Forked(pretrain_with_small_files, limit, arguments).wait()
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ") and "File too large" in last
    assert checkpoints(run) == before and not list(run.rglob(".*.tmp"))
