"""Commands of research: analyze, reconstruct, compare, publish, benchmarks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from click.testing import CliRunner
from reference import AUDIO

from hear_mwmae.config import DecoderConfig, FrontendConfig
from hear_mwmae.frontend import LogMelFrontend
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.probe import Score
from hear_mwmae.weights import load_embedder, read_model, save_model
from research import analyze, compare, publish, reconstruct
from research.analysis.crops import choose_files, read_crops
from research.benchmarks import attention as attention_benchmark
from research.benchmarks import embed as embed_benchmark
from research.benchmarks import machine
from research.benchmarks import muon as muon_benchmark
from research.benchmarks import pretrain as pretrain_benchmark


def test_files_are_drawn_from_each_folder_and_crops_from_each_clip(
    audio_folder, small_config, tmp_path
):
    for number in range(5):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(160), 16000)
    files = choose_files([str(tmp_path), str(audio_folder)], 2, seed=0)
    assert [file.parent for file in files] == [tmp_path] * 2 + [audio_folder] * 2
    assert len({tuple(choose_files([str(tmp_path)], 2, seed)) for seed in range(20)}) > 3
    assert len(choose_files([str(tmp_path)], 0, seed=0)) == 5
    audio = torch.randn(64000) * torch.linspace(0.01, 1, 64000)
    for name, sound in (("long.wav", audio), ("short.wav", audio[:8000])):
        soundfile.write(tmp_path / name, sound.numpy(), 16000, subtype="FLOAT")
    whole = LogMelFrontend(FrontendConfig())(audio[None])[0]
    long, short = read_crops([tmp_path / "long.wav", tmp_path / "short.wav"], small_config, 0)
    start = int((whole[:, 0] - long[0, 0]).abs().argmin())
    torch.testing.assert_close(long, whole[start : start + 200], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(short[51:101], short[:50].flip(0))  # reflected


def test_the_command_measures_models_and_untrained_ones(small_config, tmp_path):
    windows = dataclasses.replace(small_config.decoder, depth=2)
    config = dataclasses.replace(small_config, decoder=windows)
    plain = dataclasses.replace(
        config,
        encoder=dataclasses.replace(config.encoder, cls_token=True),
        decoder=DecoderConfig(32, 2, 8),
    )
    options = []
    for name, kind in (("MW-MAE", config), ("MAE", plain)):
        torch.manual_seed(1)
        save_model(tmp_path / name, kind, MaskedAutoencoder(kind).state_dict())
        options += ["--model", f"{name}={tmp_path / name}"]
    out = tmp_path / "out"
    clips = [str(AUDIO / name) for name in ("piano.flac", "crow.wav", "tabla.ogg")]
    command = [*clips, "-o", str(out), *options, "--tokens", "300", "--draws", "5"]
    done = CliRunner().invoke(analyze.main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "4 models, 3 clips" in done.output
    heads = pd.read_csv(out / "heads.csv")
    names = ["MW-MAE", "MW-MAE, untrained", "MAE", "MAE, untrained"]
    assert list(heads["model"].unique()) == names
    assert len(heads) == 4 * (2 * 2 * 2 + 2 * 8)  # encoder, twice, of 2 x 2 heads; decoder of 2 x 8
    spread = pd.read_csv(out / "spread.csv")
    one = spread[(spread["view"] == "encoder, masked input") & (spread["spread"] == "range")]
    row = one[one["measure"] == "distance"].set_index("model")
    difference = row.loc["MW-MAE", "value"] - row.loc["MAE", "value"]
    assert row.loc["MW-MAE - MAE", "value"] == pytest.approx(difference, abs=1e-4)
    assert (row["low"] <= row["value"]).all() and (row["value"] <= row["high"]).all()
    windows = pd.read_csv(out / "windows.csv")
    assert list(windows["model"]) == [*names[:2], "MW-MAE - MW-MAE, untrained"]
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert len(pictures) == 3 + 4 * 2
    summary = (out / "summary.md").read_text()
    assert "| MW-MAE - MAE " in summary and "decoder, masked input" in summary
    for path in out.glob("*.png"):
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("command", ["analyze", "reconstruct"])
def test_samples_that_are_not_finite_are_one_line(command, tmp_path):
    bad = tmp_path / "bad.wav"
    samples = np.zeros(16000, np.float32)
    samples[100] = np.nan
    soundfile.write(bad, samples, 16000, subtype="FLOAT")
    out = tmp_path / "out.png"
    sounds = [str(bad), str(AUDIO / "crow.wav")]
    if command == "analyze":
        done = CliRunner().invoke(analyze.main, [*sounds, "-o", str(out)])
    else:
        done = CliRunner().invoke(reconstruct.main, [*sounds[:1], "-o", str(out)])
    assert done.exit_code == 1
    assert "bad.wav" in done.output and "Traceback" not in done.output
    assert done.output.count("\n") == 1


def test_reconstruct_writes_picture_array_and_sound(tmp_path):
    pytest.importorskip("librosa")
    out = tmp_path / "piano.png"
    piano = str(AUDIO / "piano.flac")
    done = CliRunner().invoke(reconstruct.main, [piano, "-o", str(out), "--audio"])
    assert done.exit_code == 0, done.output
    files = ["piano-target.wav", "piano.npy", "piano.png", "piano.wav"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    result = reconstruct.reconstruct(MaskedAutoencoder.from_pretrained().eval(), Path(piano))
    whole = np.load(tmp_path / "piano.npy")
    np.testing.assert_array_equal(whole, result.predicted)
    assert f"{result.loss:.3f}" in done.output
    hidden = np.isnan(result.masked)
    assert whole.shape == result.target.shape and 0.75 < hidden.mean() < 0.85
    np.testing.assert_allclose(whole[~hidden], result.target[~hidden], atol=1e-3)
    # Better than the mean of the clip by far; the loss is of the normalised features.
    error = np.square(whole - result.target)[hidden].mean()
    assert error < 0.2 * result.target.var()
    assert result.loss == pytest.approx(error / result.target.var(), rel=0.2)  # and of the padding
    sound, rate = soundfile.read(tmp_path / "piano-target.wav")
    log_mel = LogMelFrontend(FrontendConfig()).log_mel(torch.from_numpy(sound)[None].float())[0]
    loud = result.target > result.target.max() - 7  # 30 dB
    assert rate == 16000 and np.abs(log_mel.numpy() - result.target)[loud].mean() < 1  # 4 dB


def test_reconstruct_denormalises_each_window_by_itself(small_config):
    config = dataclasses.replace(small_config, frontend=FrontendConfig(win_lengths=(400, 1024)))
    model = MaskedAutoencoder(config).eval()
    result = reconstruct.reconstruct(model, AUDIO / "crow.wav", seed=1)
    assert result.target.shape[1] == 160
    seen = ~np.isnan(result.masked)
    np.testing.assert_allclose(result.masked[seen], result.target[seen], atol=1e-3)
    assert (seen[:, :80] == seen[:, 80:]).all()  # one mask for both
    assert reconstruct.draw(result, config.frontend).axes[0].images[0].get_array().shape[0] == 80


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(0)
    one, other = (Score(score, rng.normal(score, 1, 4000)) for score in (50.0, 60.0))
    same = compare.mean_over_seeds([one, one], rng).estimate
    both = compare.mean_over_seeds([one, other], rng).estimate
    assert same.value == 50 and same.high - same.low < 3.9
    assert both.value == 55 and both.high - both.low > 10


def test_compare(task, saved_model):
    command = [str(task), "-a", str(saved_model), "-b", "", "-b", str(saved_model)]
    done = CliRunner().invoke(compare.main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()]
    assert len(lines) == 3 + 3 and [words[1] for words in lines[3:]] == ["a", "b", "b"]
    assert "[" in done.output


RECIPE = """preset = "mwmae-tiny"
steps = 4
batch_size = 8
"""


@pytest.fixture
def finished_run(tmp_path, saved_model) -> Path:
    """As pretraining leaves it, after one interruption; and a manifest of what it heard."""
    run = tmp_path / "run"
    save_model(run / "model", *read_model(saved_model))
    (run / "recipe.toml").write_text(RECIPE)
    for number, rows in enumerate(("0,9.0,10\n1,9.0,20\n2,9.0,30\n", "2,2.0,60\n3,1.0,120\n")):
        folder = run / "logs" / f"version_{number}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("step,loss,seconds\n" + rows)
    manifest = "path,seconds,package,version,kind,licence\n"
    for kind, seconds in (("notes", 7200), ("speech", 3600)):
        manifest += f"{kind}.flac,{seconds},some-package,1.0,{kind},CC0-1.0\n"
    (tmp_path / "manifest.csv").write_text(manifest)
    return run


def test_publish_a_finished_run(finished_run, task, tmp_path):
    options = ["--hardware", "two cores", "--license", "cc0-1.0", "--origin", "Recorded at home."]
    options += ["--manifest", str(tmp_path / "manifest.csv"), "--limit", "Knows three clips."]
    command = [str(finished_run), str(task), "-o", str(tmp_path / "out"), *options]
    done = CliRunner().invoke(publish.main, [*command, "--pooling", "mean+max"])
    assert done.exit_code == 0, done.output
    card = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert "license: cc0-1.0" in card and "Recorded at home." in card
    assert "3.0 hours of audio: notes 2.0 h, speech 1.0 h." in card
    assert "| some-package | 1.0 | CC0-1.0 | notes 2.00, speech 1.00 |" in card
    assert "4 steps of 8 crops of two seconds (32 crops). 2 minutes on two cores;" in card
    assert "loss 5.250 over" in card  # the repeated step counts once
    assert "Knows three clips." in card and "| tones | accuracy | " in card
    config, state = read_model(tmp_path / "out")
    assert config.pooling == "mean+max"
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert load_embedder(tmp_path / "out").scene_embedding_size == config.scene_embedding_size
    assert (tmp_path / "out" / "loss.png").stat().st_size > 1000
    (finished_run / "recipe.toml").write_text(RECIPE.replace("steps = 4", "steps = 5"))
    done = CliRunner().invoke(publish.main, command)
    assert done.exit_code == 1 and "4 of 5 steps: it is not finished" in done.output


def test_benchmarks_run(monkeypatch):
    monkeypatch.setattr(machine, "ROWS", 10)
    monkeypatch.setattr(embed_benchmark, "SECONDS", 1)
    for command, options in (
        (embed_benchmark.main, ["--size", "tiny", "--rounds", "1", "--batch", "1"]),
        (pretrain_benchmark.main, ["--rounds", "1", "--batch-size", "1", "--precision", "float32"]),
        (muon_benchmark.main, ["--rounds", "1", "--recipe", "tiny"]),
        (attention_benchmark.main, ["--rounds", "1", "--batch", "1"]),
    ):
        done = CliRunner().invoke(command, options, catch_exceptions=False)
        assert done.exit_code == 0, done.output
