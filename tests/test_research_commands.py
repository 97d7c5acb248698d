"""Commands of research: analyze, reconstruct, publish, the benchmarks, the script for a GPU."""

import dataclasses
import importlib
import os
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from click.testing import CliRunner
from reference import AUDIO
from tiny_run import write_recipe

from hear_mwmae.config import FrontendConfig
from hear_mwmae.frontend import LogMelFrontend
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.weights import load_embedder, read_model, save_model
from research import analyze, publish, reconstruct
from research.analysis import measure
from research.benchmarks import attention, embed, pretrain


def test_crops_are_those_of_the_front_end(small_config, tmp_path):
    audio = torch.randn(64000) * torch.linspace(0.01, 1, 64000)
    for name, sound in (("long.wav", audio), ("short.wav", audio[:8000])):
        soundfile.write(tmp_path / name, sound.numpy(), 16000, subtype="FLOAT")
    files = [tmp_path / "long.wav", tmp_path / "short.wav"]
    whole = LogMelFrontend(FrontendConfig())(audio[None])[0]
    long, short = analyze.read_crops(files, small_config)
    start = int((whole[:, 0] - long[0, 0]).abs().argmin())
    torch.testing.assert_close(long, whole[start : start + 200], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(short[51:101], short[:50].flip(0))  # reflected


def test_analyze(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "TOKENS", 300)
    deeper = dataclasses.replace(small_config.decoder, depth=2)
    config = dataclasses.replace(small_config, decoder=deeper)
    save_model(tmp_path / "model", config, MaskedAutoencoder(config).state_dict())
    out = tmp_path / "out"
    command = [str(AUDIO), "-o", str(out), "--model", f"MW-MAE={tmp_path / 'model'}"]
    done = CliRunner().invoke(analyze.main, command, catch_exceptions=False)
    assert done.exit_code == 0 and "2 models, 5 clips" in done.output
    heads = pd.read_csv(out / "heads.csv")
    assert list(heads["model"].unique()) == ["MW-MAE", "MW-MAE, untrained"]
    assert len(heads) == 2 * (2 * 2 * 2 + 2 * 8)  # encoder, twice, of 2 x 2 heads; decoder 2 x 8
    assert "decoder, masked input" in (out / "summary.md").read_text()
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in out.glob("*.png"))


def test_reconstruct(tmp_path):
    piano = AUDIO / "piano.flac"
    picture = tmp_path / "piano.png"
    done = CliRunner().invoke(reconstruct.main, [str(piano), "-o", str(picture)])
    assert done.exit_code == 0, done.output
    assert picture.read_bytes()[:4] == b"\x89PNG"
    model = MaskedAutoencoder.from_pretrained().eval()
    masked, predicted, target = reconstruct.reconstruct(model, piano)
    hidden = np.isnan(masked)
    assert predicted.shape == target.shape and 0.75 < hidden.mean() < 0.85
    np.testing.assert_array_equal(predicted[~hidden], target[~hidden])
    # Better than the mean of the clip by far.
    error = np.square(predicted - target)[hidden].mean()
    assert error < 0.2 * target.var() and f"{error:.3f}" in done.output


def test_publish_a_finished_run(task, saved_model, tmp_path):
    """As pretraining leaves it, after one interruption; and a manifest of what it heard."""
    run, recipe = tmp_path / "run", 'preset = "mwmae-tiny"\nsteps = 4\nbatch_size = 8\n'
    save_model(run / "model", *read_model(saved_model))
    (run / "recipe.toml").write_text(recipe)
    for number, rows in enumerate(("0,9.0,10\n1,9.0,20\n2,9.0,30\n", "2,2.0,60\n3,1.0,120\n")):
        folder = run / "logs" / f"version_{number}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("step,loss,seconds\n" + rows)
    manifest = "path,seconds,package,version,kind,licence\n"
    for kind, seconds in (("notes", 7200), ("speech", 3600)):
        manifest += f"{kind}.flac,{seconds},some-package,1.0,{kind},CC0-1.0\n"
    (tmp_path / "manifest.csv").write_text(manifest)
    options = ["--hardware", "two cores", "--license", "cc0-1.0", "--pooling", "mean+max"]
    options += ["--origin", "Recorded at home."]
    options += ["--manifest", str(tmp_path / "manifest.csv"), "--limit", "Knows three clips."]
    command = [str(run), str(task), "-o", str(tmp_path / "out"), *options]
    done = CliRunner().invoke(publish.main, command)
    assert done.exit_code == 0, done.output
    card = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert "license: cc0-1.0" in card and "Knows three clips." in card
    assert "3.0 hours of audio: notes 2.0 h, speech 1.0 h." in card
    sources = (tmp_path / "out" / "audio.csv").read_text().splitlines()
    assert sources[1:] == [
        "some-package,1.0,CC0-1.0,notes,2.0",
        "some-package,1.0,CC0-1.0,speech,1.0",
    ]
    assert "4 steps of 8 crops of two seconds (32 crops). 2 minutes on two cores;" in card
    assert "loss 5.250 over" in card and "| tones | accuracy | " in card
    assert load_embedder(tmp_path / "out").config.pooling == "mean+max"
    (run / "recipe.toml").write_text(recipe.replace("steps = 4", "steps = 5"))
    done = CliRunner().invoke(publish.main, command)
    assert done.exit_code == 1 and "4 of 5 steps: it is not finished" in done.output


@pytest.mark.parametrize("benchmark", [attention, embed, pretrain])
def test_benchmark(benchmark, small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "preset", lambda name: small_config)
    monkeypatch.setattr(pretrain, "preset", lambda name: small_config)
    options, expected = {
        attention: (["--recipe", write_recipe(tmp_path / "recipe.toml")], "of plain"),
        embed: (["--size", "base"], "base bfloat16: "),
        pretrain: ([], "mwmae bfloat16: "),
    }[benchmark]
    command = [*map(str, options), "--rounds", "1", "--batch", "1"]
    done = CliRunner().invoke(benchmark.main, command, catch_exceptions=False)
    assert done.exit_code == 0 and expected in done.output


def test_commands_of_the_script_for_a_gpu(tmp_path):
    """With echo in the place of Python."""
    settings = {"PYTHON": "echo", "OUT": str(tmp_path / "out"), "PACK": str(tmp_path)}
    script = Path(__file__).parents[1] / "research" / "gpu.sh"
    done = subprocess.run([script], env=os.environ | settings, capture_output=True, text=True)
    assert done.stdout.count("exit code 0") == 6
    modules = set()
    for report in (tmp_path / "out").glob("*.txt"):
        _, module, *words = shlex.split(report.read_text())
        modules.add(module)
        if module != "pytest":
            command = importlib.import_module(module).main
            if module == "hear_mwmae.cli":
                command = command.commands[words.pop(0)]
            command.make_context(module, words)  # an unknown option is an error
    assert len(modules) == 5
