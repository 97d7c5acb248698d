"""Commands of research: analyze, reconstruct."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from click.testing import CliRunner
from reference import AUDIO

from hear_mwmae.config import FrontendConfig
from hear_mwmae.frontend import LogMelFrontend
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.weights import save_model
from research import analyze, reconstruct
from research.analysis.crops import choose_files, read_crops


def test_crops_are_those_of_the_front_end(small_config, tmp_path):
    audio = torch.randn(64000) * torch.linspace(0.01, 1, 64000)
    for name, sound in (("long.wav", audio), ("short.wav", audio[:8000])):
        soundfile.write(tmp_path / name, sound.numpy(), 16000, subtype="FLOAT")
    files = choose_files([str(tmp_path)], 0, seed=0)
    assert len(files) == 2 and len(choose_files([str(tmp_path), str(AUDIO)], 1, seed=0)) == 2
    whole = LogMelFrontend(FrontendConfig())(audio[None])[0]
    long, short = read_crops(files, small_config, 0)
    start = int((whole[:, 0] - long[0, 0]).abs().argmin())
    torch.testing.assert_close(long, whole[start : start + 200], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(short[51:101], short[:50].flip(0))  # reflected


def test_analyze(small_config, tmp_path):
    deeper = dataclasses.replace(small_config.decoder, depth=2)
    config = dataclasses.replace(small_config, decoder=deeper)
    save_model(tmp_path / "model", config, MaskedAutoencoder(config).state_dict())
    out = tmp_path / "out"
    command = [str(AUDIO), "-o", str(out), "--model", f"MW-MAE={tmp_path / 'model'}"]
    command += ["--tokens", "300", "--draws", "5"]
    done = CliRunner().invoke(analyze.main, command, catch_exceptions=False)
    assert done.exit_code == 0 and "2 models, 5 clips" in done.output
    heads = pd.read_csv(out / "heads.csv")
    assert list(heads["model"].unique()) == ["MW-MAE", "MW-MAE, untrained"]
    assert len(heads) == 2 * (2 * 2 * 2 + 2 * 8)  # encoder, twice, of 2 x 2 heads; decoder 2 x 8
    assert "decoder, masked input" in (out / "summary.md").read_text()
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in out.glob("*.png"))


def test_reconstruct_writes_picture_and_array(tmp_path):
    piano = str(AUDIO / "piano.flac")
    command = [piano, "-o", str(tmp_path / "piano.png")]
    done = CliRunner().invoke(reconstruct.main, command)
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.iterdir()} == {"piano.npy", "piano.png"}
    result = reconstruct.reconstruct(MaskedAutoencoder.from_pretrained().eval(), Path(piano))
    assert f"{result.loss:.3f}" in done.output
    hidden = np.isnan(result.masked)
    assert result.predicted.shape == result.target.shape and 0.75 < hidden.mean() < 0.85
    np.testing.assert_allclose(result.predicted[~hidden], result.target[~hidden], atol=1e-3)
    # Better than the mean of the clip by far.
    error = np.square(result.predicted - result.target)[hidden].mean()
    assert error < 0.2 * result.target.var()
