"""Pretraining: schedule, optimizers, runs that are really killed, and what is kept of them."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from filelock import FileLock
from safetensors.torch import load_file
from tiny_run import log, losses, tiny_recipe, write_recipe

import hear_mwmae
from hear_mwmae.cli import main
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.training import loop, stopping
from hear_mwmae.training.loop import pretrain
from hear_mwmae.training.optim import Muon, make_optimizers, orthogonalize, schedule
from hear_mwmae.training.pack import pack
from hear_mwmae.training.recipe import Recipe
from hear_mwmae.training.resume import newest_checkpoint
from hear_mwmae.training.stopping import stop_signals


def test_schedule(tmp_path):
    recipe = tiny_recipe(tmp_path)
    factors = [schedule(step, recipe, 3) for step in range(recipe.steps + 1)]
    assert factors[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1])  # warm-up
    assert factors[3:7] == [1, 1, 1, 1]  # constant
    assert factors[6:] == pytest.approx(
        [(1 + np.cos(np.pi * i / 6)) / 2 for i in range(7)], abs=1e-12
    )  # cosine to 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muon_is_torchs(dtype):
    """To the roundings of bfloat16, in which torch always orthogonalizes; from the same state, for
    matrices of several shapes.
    """
    torch.manual_seed(0)
    shapes = [(24, 8), (8, 24), (8, 8), (24, 8)]
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    optimizers = (
        Muon(ours, 0.1, 0.05, dtype),
        torch.optim.Muon(theirs, 0.1, 0.05, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        for one, other in zip(ours, theirs, strict=True):
            assert (one - other).norm() < 0.03 * (one - 1).norm()
            assert torch.equal(
                *(
                    o.state[p]["momentum_buffer"]
                    for o, p in zip(optimizers, (one, other), strict=True)
                )
            )
    exact = orthogonalize(
        torch.eye(8).mul(3).repeat(2, 1, 1), (1.5, -0.5, 0.0), 25, 1e-7
    )  # the cubic, which converges
    assert torch.allclose(exact, torch.eye(8).expand(2, 8, 8), atol=1e-5)


def test_muon_takes_the_hidden_matrices_only(tmp_path):
    recipe = tiny_recipe(tmp_path)
    model = MaskedAutoencoder(recipe.model_config())
    names = {id(p): name for name, p in model.named_parameters()}
    adamw, muon = (
        {names[id(p)] for g in o.param_groups for p in g["params"]}
        for o in make_optimizers(model, recipe)
    )
    assert adamw | muon == set(names.values()) and not adamw & muon
    assert all(name.endswith(".weight") and ".blocks." in name for name in muon) and len(muon) == 8
    assert {
        "encoder.patch_embed.weight",
        "decoder.decoder_pred.weight",
        "encoder.pos_embed",
    } <= adamw


def steps_of(run: Path) -> int:
    """Steps in the log."""
    return len(log(run))


def pretrain_with_small_files(limit: int, arguments: list[str]) -> None:
    """The command, in a process that may write no file of more bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    main(["pretrain", *arguments])


def checkpoints(run: Path) -> dict[str, bytes]:
    """Contents by name."""
    return {path.name: path.read_bytes() for path in sorted((run / "checkpoints").iterdir())}


def test_the_loss_goes_down(data, tmp_path):
    recipe = tiny_recipe(tmp_path, steps=60)
    model = pretrain(recipe, data, tmp_path / "run")
    values = losses(tmp_path / "run")
    assert len(values) == 60 and np.mean(values[-5:]) < 0.6 * values[0]
    assert MaskedAutoencoder.from_pretrained(str(model)).config == recipe.model_config()
    assert hear_mwmae.load_model(str(model)).scene_embedding_size == 160


def test_killed_and_started_again_ends_with_the_same_weights(data, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.toml", steps=40)
    assert forked.run("pretrain", recipe, data, tmp_path / "whole").returncode == 0
    for how in (signal.SIGKILL, signal.SIGTERM):
        # With a process that reads ahead, and a signal to the whole group, as `timeout` and
        # schedulers of clusters send it.
        rows = steps_of(tmp_path / "parts")
        process = forked.start("pretrain", recipe, data, tmp_path / "parts", "--set", "workers=1")
        forked.wait_until(lambda least=rows + 3: steps_of(tmp_path / "parts") >= least, process)
        os.killpg(process.pid, how)
        done = process.wait()
        assert done.returncode != 0
        if how == signal.SIGTERM:
            assert "the same command goes on from there" in done.stderr
    assert forked.run("pretrain", recipe, data, tmp_path / "parts").returncode == 0
    whole, parts = (tmp_path / run / "model" / "model.safetensors" for run in ("whole", "parts"))
    whole, parts = load_file(whole), load_file(parts)
    assert whole.keys() == parts.keys() and all(
        torch.equal(whole[name], parts[name]) for name in whole
    )
    assert [row["loss"] for row in log(tmp_path / "whole")] == [
        row["loss"] for row in log(tmp_path / "parts")
    ]


def test_an_extended_run_keeps_its_warm_up(data, tmp_path):
    """Derived from the steps that it began with: the log says what the rates were."""
    recipe = tiny_recipe(tmp_path, steps=8)
    pretrain(recipe, data, tmp_path / "run")
    pretrain(tiny_recipe(tmp_path, steps=16), data, tmp_path / "run")
    factors = [schedule(step, recipe, 2) for step in range(8)]
    factors += [schedule(step, dataclasses.replace(recipe, steps=16), 2) for step in range(8, 16)]
    for name, peak in zip(
        ("learning_rate", "muon_learning_rate"), recipe.learning_rates, strict=True
    ):
        rates = [float(row[name]) for row in log(tmp_path / "run")]
        assert rates == pytest.approx([factor * peak for factor in factors])


def test_a_run_explains_itself(data, tmp_path, monkeypatch):
    """By its recipe, from which it goes on, and the commands and versions of its starts."""
    monkeypatch.setattr("sys.argv", ["/usr/bin/hear-mwmae", "pretrain", "tiny"])
    pretrain(tiny_recipe(tmp_path, precision="auto", steps=4), data, tmp_path / "run", "cpu")
    written = Recipe.read(tmp_path / "run" / "recipe.toml", ["steps=6"])
    assert (written.steps, written.precision) == (6, "float32")
    pretrain(written, data, tmp_path / "run", "cpu")
    lines = (tmp_path / "run" / "starts.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first["command"] == ["hear-mwmae", "pretrain", "tiny"]
    assert (first["first_step"], second["first_step"]) == (0, 4)
    assert first["torch"] == torch.__version__ and first["data"] == str(data)
    assert first["hear_mwmae"] == hear_mwmae.__version__


def test_a_run_may_be_lengthened_but_not_changed(data, tmp_path):
    pretrain(tiny_recipe(tmp_path), data, tmp_path / "run")
    pretrain(tiny_recipe(tmp_path, steps=14), data, tmp_path / "run")
    assert len(log(tmp_path / "run")) == 14
    model = {"encoder": {"width": 32, "depth": 2, "heads": 2}, "decoder": {"width": 32, "depth": 1}}
    with pytest.raises(ValueError) as caught:
        pretrain(tiny_recipe(tmp_path, seed=1, model=model), data, tmp_path / "run")
    assert str(caught.value).endswith(
        "step-00000014.pt belongs to another recipe: model.encoder.depth 1 -> 2, seed 0 -> 1"
    )


def test_a_run_is_not_shortened_below_what_is_done(data, tmp_path):
    model = pretrain(tiny_recipe(tmp_path), data, tmp_path / "run")
    before = (model / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="run is 12 steps on, more than the 9 of the recipe"):
        pretrain(tiny_recipe(tmp_path, steps=9), data, tmp_path / "run")
    assert (model / "model.safetensors").read_bytes() == before


def test_a_run_is_no_data_set(data, tmp_path):
    with pytest.raises(ValueError, match="is a data set: a run needs a folder of its own"):
        pretrain(tiny_recipe(tmp_path), data, data)
    assert not (data / "logs").exists()


def test_a_model_of_another_rate_than_the_audio(data, tmp_path):
    recipe = Recipe.read(
        write_recipe(tmp_path / "recipe.toml"), ["model.frontend.sample_rate=32000"]
    )
    with pytest.raises(ValueError, match=r"the model hears 32000 Hz, the audio in .* has 16000 Hz"):
        pretrain(recipe, data, tmp_path / "run")


def test_one_process_at_a_time(data, tmp_path):
    """Or each would write what the other reads: a scheduler may start a run anew while the old one
    still saves.
    """
    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / ".lock"),
        pytest.raises(ValueError, match=r"another process is training into .*run"),
    ):
        pretrain(tiny_recipe(tmp_path), data, tmp_path / "run")
    pretrain(tiny_recipe(tmp_path), data, tmp_path / "run")


def test_a_run_keeps_to_its_data(data, audio_folder, tmp_path):
    recipe = tiny_recipe(tmp_path)
    pretrain(recipe, data, tmp_path / "run")
    pack([str(audio_folder / "manifest.csv")], tmp_path / "opus", "opus")
    with pytest.raises(ValueError, match=r"belongs to a run on other data than .*opus"):
        pretrain(recipe, tmp_path / "opus", tmp_path / "run")


def test_weights_that_are_not_finite_are_not_saved(data, tmp_path, monkeypatch):
    """The loss of a step is that before its update, so an update that breaks the model shows in the
    weights first.
    """
    recipe = tiny_recipe(tmp_path)
    pretrain(dataclasses.replace(recipe, steps=9), data, tmp_path / "run")
    before = checkpoints(tmp_path / "run")
    step = torch.optim.AdamW.step

    def broken(self: torch.optim.AdamW) -> None:
        step(self)
        self.param_groups[0]["params"][0].data.fill_(torch.nan)

    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    with pytest.raises(ValueError, match="weights are no longer finite after step 9"):
        pretrain(dataclasses.replace(recipe, checkpoint_every=1), data, tmp_path / "run")
    assert checkpoints(tmp_path / "run") == before


def test_gradients_are_clipped(data, tmp_path):
    """To so little that Adam's eps outweighs it: as if the rate were 0."""
    settings = {"optimizer": "adamw", "weight_decay": 0.0}
    pretrain(tiny_recipe(tmp_path, **settings), data, tmp_path / "free")
    pretrain(tiny_recipe(tmp_path, **settings, clip_gradient=1e-12), data, tmp_path / "clipped")
    pretrain(tiny_recipe(tmp_path, **settings, base_learning_rate=0.0), data, tmp_path / "still")
    assert losses(tmp_path / "clipped") == pytest.approx(losses(tmp_path / "still"), abs=1e-3)
    assert losses(tmp_path / "free")[-1] < losses(tmp_path / "still")[-1] - 0.05


def zeros_inside(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(200) + content[middle + 200 :]


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:1000], lambda content: b"", lambda content: b"no", zeros_inside],
)
def test_a_damaged_checkpoint(data, tmp_path, damage):
    recipe = tiny_recipe(tmp_path)
    pretrain(recipe, data, tmp_path / "run")
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    checkpoint = newest_checkpoint(tmp_path / "run")
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    with pytest.raises(
        ValueError, match=r"step-00000012.pt is no checkpoint of a run, or damaged; remove it"
    ):
        pretrain(recipe, data, tmp_path / "run")
    checkpoint.unlink()  # the one before is whole, and leads to the same end
    pretrain(recipe, data, tmp_path / "run")
    again = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert len(log(tmp_path / "run")) == 12 and all(
        torch.equal(again[name], weights[name]) for name in weights
    )


def test_checkpoints_that_are_kept(data, tmp_path):
    recipe = tiny_recipe(tmp_path, keep_last=2, keep_every=4, checkpoint_every=2)
    pretrain(recipe, data, tmp_path / "run")
    assert list(checkpoints(tmp_path / "run")) == [f"step-{step:08d}.pt" for step in (4, 8, 10, 12)]
    pretrain(
        dataclasses.replace(recipe, keep_last=1, keep_every=0, steps=14), data, tmp_path / "run"
    )
    assert list(checkpoints(tmp_path / "run")) == ["step-00000014.pt"]


def test_a_checkpoint_with_code_in_it_does_not_run(data, tmp_path):
    class Code:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save({"identity": Code()}, tmp_path / "run" / "checkpoints" / "step-00000001.pt")
    with pytest.raises(ValueError, match="no checkpoint of a run"):
        pretrain(tiny_recipe(tmp_path), data, tmp_path / "run")
    assert not (tmp_path / "ran").exists()


def test_signal_handlers_are_restored(data, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    pretrain(tiny_recipe(tmp_path), data, tmp_path / "run")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_interrupting_saves_and_interrupting_again_aborts(monkeypatch):
    with stop_signals() as told:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # `timeout` sends it twice within milliseconds
        assert told.wait(5)
        monkeypatch.setattr(stopping, "SAME_SIGNAL", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)


def test_ctrl_c_saves(data, tmp_path):
    """Of the whole group of processes, as a terminal sends it, while one of them reads ahead.

    No step is lost.
    """
    recipe = write_recipe(
        tmp_path / "recipe.toml", steps=100_000, checkpoint_every=100_000, workers=1
    )
    process = forked.start("pretrain", recipe, data, tmp_path / "run")
    forked.wait_until(lambda: steps_of(tmp_path / "run") >= 3, process)
    os.killpg(process.pid, signal.SIGINT)
    done = process.wait()
    assert (
        done.returncode == 1
        and "stopping after this step" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert "the same command goes on from there" in done.stderr
    assert list(checkpoints(tmp_path / "run")) == [f"step-{len(log(tmp_path / 'run')):08d}.pt"]


def test_a_loss_that_is_not_finite_ends_the_run(data, tmp_path):
    recipe = tiny_recipe(tmp_path, base_learning_rate=1e30, optimizer="adamw")
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step"):
        pretrain(recipe, data, tmp_path / "run")


def test_a_full_disk_ends_the_run_with_one_line_and_loses_nothing(data, tmp_path):
    """The nearest thing to a full disk: no file may grow beyond a limit.

    What was saved before is whole.
    """
    recipe = write_recipe(tmp_path / "recipe.toml", steps=4)
    pretrain(Recipe.read(recipe), data, tmp_path / "run")
    before = checkpoints(tmp_path / "run")
    limit = len(before["step-00000004.pt"]) // 2
    write_recipe(recipe, steps=20)
    done = forked.Forked(
        pretrain_with_small_files, limit, [str(recipe), str(data), str(tmp_path / "run")]
    ).wait()
    assert (
        done.returncode == 1
        and done.stderr.splitlines()[-1].startswith("Error: ")
        and "Traceback" not in done.stderr
    )
    assert "File too large" in done.stderr
    assert checkpoints(tmp_path / "run") == before
    assert not list((tmp_path / "run").rglob(".*.tmp"))
    pretrain(Recipe.read(recipe), data, tmp_path / "run")
    assert len(log(tmp_path / "run")) == 20


def test_an_unforeseen_error_leaves_no_process_behind(data, tmp_path, monkeypatch):
    """A traceback is kept, and with it the frames that hold the readers; the process would never
    end.
    """
    monkeypatch.setattr(loop, "schedule", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as kept:
        pretrain(tiny_recipe(tmp_path, workers=1), data, tmp_path / "run")
    assert kept.value.__traceback__ and not multiprocessing.active_children()


def test_resume_does_not_begin_a_run(data, tmp_path):
    command = [
        "pretrain",
        str(write_recipe(tmp_path / "recipe.toml")),
        str(data),
        str(tmp_path / "run"),
        "--resume",
    ]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1 and "run has no checkpoint to resume from" in result.output
    assert CliRunner().invoke(main, command[:-1]).exit_code == 0
    result = CliRunner().invoke(main, [*command, "--set", "steps=14"])
    assert result.exit_code == 0 and len(log(tmp_path / "run")) == 14


def test_a_run_that_cannot_be_written(data, tmp_path):
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(
        main,
        [
            "pretrain",
            str(write_recipe(tmp_path / "r.toml")),
            str(data),
            str(tmp_path / "file" / "run"),
        ],
    )
    assert (
        result.exit_code == 1
        and "Not a directory" in result.output
        and str(tmp_path / "file") in result.output
    )
