"""The command and audio files, through the real entry point."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from audio_files import damaged
from click.testing import CliRunner, Result
from reference import AUDIO, REFERENCE

import hear_mwmae
from hear_mwmae.audio import read_audio
from hear_mwmae.card import model_card
from hear_mwmae.cli import main

OFFICIAL = REFERENCE / "official_checkpoint" / "checkpoint_198400"
CLIPS = sorted(AUDIO.iterdir())


@pytest.fixture
def model(model_dir) -> str:
    return str(model_dir)


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize("timestamps", [False, True])
def test_embed_a_folder(model, tmp_path, suffix, timestamps):
    output = tmp_path / f"out{suffix}"
    result = run("embed", AUDIO, "-o", output, "--model", model, *["--timestamps"] * timestamps)
    assert result.exit_code == 0, result.output
    if suffix == ".npz":
        with np.load(output) as file:
            table = dict(file)
    else:
        frame = pytest.importorskip("pandas").read_parquet(output)
        table = {
            name: np.stack(frame[name]) if name == "embedding" else frame[name].to_numpy()
            for name in frame
        }
    loaded = hear_mwmae.load_model(model)
    row = 0
    for path in CLIPS:
        audio = read_audio(path, 16000)[None]
        if timestamps:
            steps, times = loaded.timestamp_embeddings(audio)
            expected, count = steps[0].numpy(), steps.shape[1]
            assert table["timestamp"][row : row + count].tolist() == times[0].tolist()
        else:
            expected, count = loaded.scene_embeddings(audio).numpy(), 1
        assert set(table["path"][row : row + count]) == {str(path)}
        assert np.abs(table["embedding"][row : row + count] - expected).max() < 1e-5
        row += count
    assert row == len(table["embedding"]) and table["embedding"].dtype == np.float32
    assert not list(tmp_path.glob(".out*"))


def test_embed_prints_a_line_per_file(model):
    result = run("embed", *CLIPS[:2], "--model", model)
    lines = [line for line in result.stdout.splitlines() if "160 float32" in line]
    assert result.exit_code == 0 and [line.split(":")[0] for line in lines] == [
        str(path) for path in CLIPS[:2]
    ]


def test_one_bad_file_does_not_stop_the_rest(model, tmp_path):
    bad = damaged(tmp_path)
    result = run(
        "embed", CLIPS[0], *bad.values(), CLIPS[1], "-o", tmp_path / "out.npz", "--model", model
    )
    assert result.exit_code == 1
    reported = [line for line in result.stderr.splitlines() if line.startswith("not embedded: ")]
    assert len(reported) == len(bad) and all(
        any(str(path) in line for line in reported) for path in bad.values()
    )
    with np.load(tmp_path / "out.npz") as file:
        assert file["path"].tolist() == [str(path) for path in CLIPS[:2]]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["embed", "missing.wav"], "missing.wav: no such file or folder"),
        (["embed", "{tmp}"], "holds no audio files"),
        (
            ["embed", "{clip}", "-o", "{tmp}/out.txt"],
            "must be a folder, or end in .npz, .csv, .parquet",
        ),
        (["embed", "{clip}", "-o", "{tmp}/no/out.npz"], "there is no folder"),
        (["embed", "{clip}", "-o", "/proc/out.npz"], "cannot write /proc/out.npz"),
        (["embed", "{clip}", "--device", "toaster"], "device 'toaster' cannot be used"),
        (["embed", "{clip}", "--model", "nonsense"], "no model 'nonsense'"),
        (["embed", "{clip}", "--device", "meta"], "device 'meta' cannot be used"),
        (["convert", "{official}", "{clip}/sub"], "crow.wav"),
        (["info", "nonsense"], "no model 'nonsense'"),
        (["convert", "{clip}", "{tmp}/out"], "crow.wav"),
        (["push", "{tmp}", "org/repo", "--dry-run", "-o", "{tmp}/up"], "config.json"),
    ],
)
def test_errors_are_one_line_and_a_code(tmp_path, args, message):
    filled = [arg.format(tmp=tmp_path, clip=AUDIO / "crow.wav", official=OFFICIAL) for arg in args]
    result = run(*filled)
    assert result.exit_code == 1
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_info(model):
    text = run("info").stdout
    for said in (
        "MW-MAE (multi-window)",
        "16000 Hz, mono",
        "log-mel of 400 samples, 200 frames x 80 bands",
        "width 192, 12 blocks, 3 heads, 5,399,232 weights",
        "2, 5, 10, 25, 50, 125, global, global",
        "float16",
        "2880 numbers per clip, mean+std+max over time",
        "960 numbers every 40 ms",
    ):
        assert said in text
    assert "width 32" in run("info", model).stdout


def test_convert(tmp_path):
    for name, *options in (("one",), ("two",), ("four", "--encoder-heads", 4)):
        result = run("convert", OFFICIAL, tmp_path / name, *options)
        assert result.exit_code == 0, result.output
    assert "4 heads in the encoder, 8 in the decoder" in result.output
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert hear_mwmae.load_model(str(tmp_path / "one")).scene_embedding_size == 240


def test_push_dry_run(tmp_path, embedded_model):
    from huggingface_hub import ModelCard

    from hear_mwmae.weights import WEIGHTS_DIR

    command = ["push", WEIGHTS_DIR / "mwmae-tiny", "some-org/mwmae-tiny", "--dry-run"]
    result = run(*command, "-o", tmp_path / "up")
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "up").iterdir())
    assert names == ["README.md", "config.json", "loss.png", "model.safetensors"]
    card = ModelCard.load(tmp_path / "up" / "README.md")
    assert card.data.library_name == "hear-mwmae"
    assert card.data.pipeline_tag == "feature-extraction"
    assert card.data.license == "apache-2.0" and "audio" in card.data.tags
    assert [row.dataset_name for row in card.data.eval_results] == ["esc10", "spoken_digit"]
    assert 'load_model("some-org/mwmae-tiny")' in card.text
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


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"colour": 1}, "card.json: colour: Extra inputs are not permitted"),
        ({"results": [{"task": "a", "metric": "b"}]}, "card.json: results.0.value: Field required"),
        ({"limits": "none"}, "card.json: limits should be a valid list, got 'none'"),
        ([], "card.json: Input should be"),
    ],
)
def test_a_wrong_card_is_one_line(model_dir, tmp_path, source, said):
    (model_dir / "card.json").write_text(json.dumps(source))
    result = run("push", model_dir, "org/repo", "--dry-run", "-o", tmp_path / "up")
    assert result.exit_code == 1 and said in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [[], ["embed"], ["info"], ["convert"], ["push"], ["pretrain"]])
def test_help_teaches(command):
    result = run(*command, "--help")
    assert result.exit_code == 0 and len(result.output) > 300


def test_the_installed_command_and_a_light_import():
    """The entry point runs; importing the package pulls in nothing that only training or evaluation
    needs.
    """
    done = subprocess.run(
        [Path(sys.executable).with_name("hear-mwmae"), "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0 and hear_mwmae.__version__ in done.stdout
    heavy = ["sklearn", "pandas", "pyarrow", "av", "torch", "hear_mwmae.mae", "hear_mwmae.training"]
    code = f"import sys, hear_mwmae; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
