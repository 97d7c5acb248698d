"""`hear-mwmae analyze` and `hear-mwmae reconstruct`: what they write, and that it is true."""

from __future__ import annotations

import csv
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from reference import AUDIO

from hear_mwmae.analysis import figures
from hear_mwmae.analysis.clips import choose_files, read_crops
from hear_mwmae.analysis.maps import trace
from hear_mwmae.analysis.measure import DECODING, EMBEDDING, Settings, measure
from hear_mwmae.analysis.reconstruct import estimate_audio, reconstruct
from hear_mwmae.analysis.report import masks
from hear_mwmae.analysis.resampling import bootstrap_counts, window_difference
from hear_mwmae.analysis.similarity import pwcca
from hear_mwmae.audio import read_audio
from hear_mwmae.checkpoint import save_model
from hear_mwmae.cli import main
from hear_mwmae.cli.options import named_model
from hear_mwmae.config import DecoderConfig, FrontendConfig, ModelConfig
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.frontend import LogMelFrontend
from hear_mwmae.mae import MaskedAutoencoder

CLIPS = [str(AUDIO / name) for name in ("piano.flac", "crow.wav", "tabla.ogg", "till.opus")]
OPTIONS = ["--tokens", "400", "--draws", "8", "--batch-size", "3"]


@pytest.fixture(scope="module")
def configs(small_config) -> dict[str, ModelConfig]:
    """MW-MAE with two decoder blocks, and the plain MAE of its sizes."""
    mwmae = dataclasses.replace(small_config, decoder=dataclasses.replace(small_config.decoder, depth=2))
    encoder = dataclasses.replace(small_config.encoder, cls_token=True)
    return {"MW-MAE": mwmae, "MAE": dataclasses.replace(mwmae, encoder=encoder, decoder=DecoderConfig(32, 2, 8))}


@pytest.fixture(scope="module")
def models(configs, tmp_path_factory) -> dict[str, Path]:
    folders = {}
    for seed, (name, config) in enumerate(configs.items()):
        torch.manual_seed(seed + 10)
        folders[name] = tmp_path_factory.mktemp("models") / name
        save_model(folders[name], config, MaskedAutoencoder(config).state_dict())
    return folders


@pytest.fixture(scope="module")
def analysed(models, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("analysis") / "out"
    options = [option for name, folder in models.items() for option in ("--model", f"{name}={folder}")]
    command = ["analyze", *CLIPS, "-o", str(out), *options, *OPTIONS]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "4 models, 4 clips" in done.output
    return out


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with open(folder / f"{name}.csv", newline="") as stream:
        return list(csv.DictReader(stream))


NAMES = ["MW-MAE", "MW-MAE, untrained", "MAE", "MAE, untrained"]


def test_every_figure_and_table_is_there(analysed):
    pictures = {"heads-encoder-unmasked", "heads-encoder-masked", "heads-decoder-masked", "windows-decoder"}
    for model in ("mw-mae", "mw-mae-untrained", "mae", "mae-untrained"):
        pictures |= {f"{what}-{part}-{model}" for what in ("similarity", "attention") for part in ("encoder", "decoder")}
    tables = {"heads", "similarity", "windows", "window-comparisons", "spread", "comparisons"}
    expected = {f"{name}{suffix}" for name in pictures for suffix in (".png", ".svg")} | {f"{name}.csv" for name in tables}
    assert {path.name for path in analysed.iterdir()} == expected | {"summary.md"}
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in analysed.glob("*.png"))
    assert all("</svg>" in path.read_text() for path in analysed.glob("*.svg"))


def test_the_table_of_heads_is_what_the_maps_say(analysed, models):
    rows = table(analysed, "heads")
    assert list(dict.fromkeys(row["model"] for row in rows)) == NAMES
    assert len(rows) == 4 * (2 * 2 * 2 + 2 * 8)  # models x (encoder, twice, of 2 x 2 heads; decoder of 2 x 8)
    model = MaskedAutoencoder.from_pretrained(str(models["MW-MAE"])).eval()
    clips = read_crops(list(map(Path, CLIPS)), model.config, seed=0)
    block = [block for block in trace(model, clips, masks(4, model.config, 0)) if block.part == "decoder"][1]
    place = torch.arange(250)
    distance = torch.hypot((place[:, None] // 5 - place // 5).float(), (place[:, None] % 5 - place % 5).float())
    for head, window in enumerate((2, 5, 10, 25, 50, 125, 0, 0)):
        (row,) = [
            row
            for row in rows
            if (row["model"], row["part"], row["block"], row["head"]) == ("MW-MAE", "decoder", "2", str(head + 1))
        ]
        expected = (block.maps()[:, head] * distance).sum(dim=-1).mean().item()
        assert float(row["distance"]) == pytest.approx(expected, rel=1e-3) and row["window"] == str(window)
        assert float(row["distance_low"]) <= float(row["distance"]) <= float(row["distance_high"])
        assert float(row["distance_most"]) > float(row["distance_uniform"]) > 0


def test_similarities_are_those_of_the_heads_outputs(configs):
    """With every token as a sample: nothing is drawn."""
    config = configs["MW-MAE"]
    torch.manual_seed(0)
    model = MaskedAutoencoder(config).eval()
    clips, noise = torch.randn(3, 200, 80), masks(3, config, 0)
    found = measure(model, "a", True, clips, noise, bootstrap_counts(3, 4, 0), Settings(batch_size=2))
    for view, heads, given in ((DECODING, 8, noise), (EMBEDDING, 2, None)):
        first, last = (block.outputs for block in trace(model, clips, given) if block.part == view.part)
        a, b = (block[:, :, head].flatten(0, 1).numpy().astype(float) for block, head in ((first, 1), (last, 0)))
        assert found.similarity[view].matrices.weighted[1, heads] == pytest.approx(pwcca(a, b), abs=1e-4)
        assert found.similarity[view].matrices.weighted[heads, 1] == pytest.approx(pwcca(b, a), abs=1e-4)
    decoder = found.similarity[DECODING]
    assert decoder.by_window.effect.difference == pytest.approx(
        window_difference(decoder.matrices.pwcca[:8, 8:], config.decoder.window_sizes)
    )
    assert decoder.by_window.draws.shape == (4,) and decoder.by_window.draws.std() > 0
    assert found.similarity[EMBEDDING].by_window is None


def test_comparisons_are_between_the_models(analysed):
    values = {
        (row["model"], row["part"], row["masked"], row["measure"], row["spread"]): float(row["value"])
        for row in table(analysed, "spread")
    }
    rows = table(analysed, "comparisons")
    assert len(rows) == 6 * 3 * 2 * 4  # pairs of models x views x measures x kinds of spread
    for row in rows:
        one, other = (values[row[m], row["part"], row["masked"], row["measure"], row["spread"]] for m in ("model_a", "model_b"))
        assert float(row["a_minus_b"]) == pytest.approx(one - other, abs=2e-4)  # of six digits
        assert float(row["a_over_b"]) == pytest.approx(one / other, rel=1e-4)
    windows = {row["model"]: row for row in table(analysed, "windows")}
    assert list(windows) == NAMES[:2]  # an MAE has none
    (row,) = table(analysed, "window-comparisons")
    one, other = (float(windows[name]["difference"]) for name in NAMES[:2])
    assert float(row["a_minus_b"]) == pytest.approx(one - other, abs=2e-5)
    summary = (analysed / "summary.md").read_text()
    assert f"| MW-MAE | decoder | {float(windows['MW-MAE']['equal']):.3f} |" in summary and "MW-MAE / MAE" in summary


def test_a_models_results_depend_on_no_other_model_and_on_no_other_run(analysed, models, tmp_path):
    out = tmp_path / "out"
    command = ["analyze", *CLIPS, "-o", str(out), "--model", f"MW-MAE={models['MW-MAE']}", "--no-untrained", *OPTIONS]
    assert CliRunner().invoke(main, command, catch_exceptions=False).exit_code == 0
    assert not list(out.glob("*untrained*"))
    alone = [f"{what}-{part}-mw-mae.{kind}" for what in ("similarity", "attention") for part in ("encoder", "decoder")
             for kind in ("png", "svg")]  # fmt: skip
    for name in alone:
        assert (out / name).read_bytes() == (analysed / name).read_bytes(), name
    for name in ("heads", "similarity", "windows", "spread"):
        assert table(out, name) == [row for row in table(analysed, name) if row["model"] == "MW-MAE"], name


def test_files_are_drawn_from_each_folder(audio_folder, tmp_path):
    (tmp_path / "more").mkdir()
    for number in range(5):
        soundfile.write(tmp_path / "more" / f"{number}.wav", np.zeros(160), 16000)
    files = choose_files([str(tmp_path / "more"), str(audio_folder)], 2, seed=0)
    assert [file.parent.name for file in files] == ["more"] * 2 + [audio_folder.name] * 2
    assert files == choose_files([str(tmp_path / "more"), str(audio_folder)], 2, seed=0)
    assert len({tuple(choose_files([str(tmp_path / "more")], 2, seed)) for seed in range(20)}) > 3
    assert len(choose_files([str(tmp_path / "more")], 0, seed=0)) == 5


def test_crops_are_parts_of_the_normalised_clip(small_config, tmp_path):
    audio = torch.randn(16000 * 4) * torch.linspace(0.01, 1, 64000)
    soundfile.write(tmp_path / "a.wav", audio.numpy(), 16000, subtype="FLOAT")
    whole = LogMelFrontend(FrontendConfig())(audio[None])[0]
    starts = set()
    for seed in range(4):
        crop = read_crops([tmp_path / "a.wav"], small_config, seed)[0]
        start = int((whole[:, 0] - crop[0, 0]).abs().argmin())
        torch.testing.assert_close(crop, whole[start : start + 200], atol=1e-4, rtol=1e-4)
        starts.add(start)
    assert len(starts) > 1
    soundfile.write(tmp_path / "short.wav", audio[:8000].numpy(), 16000, subtype="FLOAT")
    short, crop = (
        LogMelFrontend(FrontendConfig())(audio[None, :8000])[0],
        read_crops([tmp_path / "short.wav"], small_config, 0)[0],
    )
    torch.testing.assert_close(crop[:51], short)
    torch.testing.assert_close(crop[51:101], short[:-1].flip(0))  # reflected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("embedded", "")),
        (".", (Path.cwd().name, ".")),
        ("mwmae-tiny", ("mwmae-tiny", "mwmae-tiny")),
        ("runs/a/model", ("model", "runs/a/model")),
        ("MAE=runs/a=b/model", ("MAE", "runs/a=b/model")),
        ("runs/a=b/model", ("model", "runs/a=b/model")),
    ],
)
def test_names_of_models(text, expected):
    assert named_model(text) == expected


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([CLIPS[0]], "2 clips or more, got 1"),
        ([*CLIPS, "--model", "a=x/y", "--model", "a=z"], "two models have the same name"),
        ([*CLIPS, "--seed", "-1"], "seed must be 0 or above"),
        ([*CLIPS, "--tokens", "16"], "16 tokens of 4 clips are fewer than the 64 dimensions"),
        ([*CLIPS, "--model", "nothing"], "no model 'nothing'"),
        ([*CLIPS, "--device", "nonsense"], "device 'nonsense' cannot be used"),
    ],
)
def test_errors_are_one_line(options, complaint, tmp_path):
    done = CliRunner().invoke(main, ["analyze", *options, "-o", str(tmp_path / "out"), "--draws", "2"])
    assert done.exit_code == 1 and complaint in done.output.splitlines()[-1], done.output


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "hear_mwmae.analysis.figures")
    for command in (["analyze", *CLIPS, "-o", str(tmp_path / "out")], ["reconstruct", CLIPS[0], "-o", str(tmp_path / "a.png")]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 1 and "the analysis needs matplotlib" in done.output and not list(tmp_path.iterdir())


def test_every_window_has_a_colour_of_its_own():
    colours = figures.window_colours((2, 5, 10, 0))
    assert colours[0] == "black" and len(set(colours.values())) == 4


def test_reconstruct_writes_picture_array_and_sound(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["reconstruct", CLIPS[0], "--audio", "--seed", "3"], catch_exceptions=False)
    names = [f"piano-reconstruction{suffix}" for suffix in (".png", ".npy", ".wav", "-target.wav")]
    assert done.exit_code == 0 and done.output.splitlines()[:4] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    result = reconstruct(Path(CLIPS[0]), seed=3)
    whole = np.load("piano-reconstruction.npy")
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, result.predicted)
    assert f"{result.loss:.3f}" in done.output
    audio = read_audio(CLIPS[0], 16000)
    target = LogMelFrontend(FrontendConfig()).log_mel(audio[None])[0].numpy()
    np.testing.assert_allclose(result.target, target, atol=1e-5)
    hidden = np.isnan(result.masked)
    assert whole.shape == target.shape and 0.75 < hidden.mean() < 0.85
    np.testing.assert_allclose(whole[~hidden], target[~hidden], atol=1e-3)
    # The predictions are of this clip: better than its mean by far, and the loss is of the
    # normalised features.
    error = np.square(whole - target)[hidden].mean()
    assert error < 0.2 * target.var()
    assert result.loss == pytest.approx(error / target.var(), rel=0.2)  # the model also sees the padding
    for name in names[2:]:
        sound, rate = soundfile.read(name)
        assert rate == 16000 and len(sound) == len(audio)


def test_reconstruct_does_not_replace_its_input(tmp_path):
    """Its sound would have the name of the recording."""
    sound = tmp_path / "talk.wav"
    sound.write_bytes(Path(CLIPS[1]).read_bytes())
    done = CliRunner().invoke(main, ["reconstruct", str(sound), "-o", str(tmp_path / "talk.png"), "--audio"])
    assert done.exit_code == 1 and "it is the input" in done.output
    assert [*tmp_path.iterdir()] == [sound] and sound.read_bytes() == Path(CLIPS[1]).read_bytes()


def test_more_hidden_is_harder_and_the_seed_is_the_masks():
    few, usual, other = (reconstruct(Path(CLIPS[1]), mask_ratio=r, seed=s) for r, s in ((0.3, 0), (None, 0), (None, 1)))
    assert np.isnan(few.masked).mean() == pytest.approx(0.3, abs=0.05)
    assert few.loss < usual.loss
    assert (np.isnan(usual.masked) != np.isnan(other.masked)).any()
    with pytest.raises(HearMwmaeError, match="mask_ratio"):
        reconstruct(Path(CLIPS[1]), mask_ratio=1.5)


def test_bad_ending_of_a_picture(tmp_path):
    done = CliRunner().invoke(main, ["reconstruct", CLIPS[0], "-o", str(tmp_path / "a.gif")])
    assert done.exit_code == 1 and "must end in .png, .svg, .pdf" in done.output and not list(tmp_path.iterdir())


def test_estimated_audio_sounds_like_its_spectrogram():
    """Of a rising tone: the log-mel of the estimate is close to what it was made from."""
    seconds = torch.arange(16000) / 16000
    audio = 0.3 * torch.sin(2 * torch.pi * (500 * seconds + 500 * seconds**2))
    frontend = LogMelFrontend(FrontendConfig())
    log_mel = frontend.log_mel(audio[None])[0]
    estimate = estimate_audio(log_mel, frontend.config, 16000)
    again = frontend.log_mel(estimate[None])[0]
    assert estimate.shape == (16000,)
    loud = log_mel > log_mel.max() - 7  # 30 dB
    assert (again - log_mel)[loud].abs().mean() < 1  # 4 dB
    assert estimate.square().mean().sqrt() == pytest.approx(audio.square().mean().sqrt(), rel=0.25)
