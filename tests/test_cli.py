"""The command and audio files, through the real entry point."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from click.testing import CliRunner, Result
from reference import AUDIO, REFERENCE

import hear_mwmae
from hear_mwmae import audio as audio_files
from hear_mwmae.audio import find_audio, read_audio
from hear_mwmae.checkpoint import save_model
from hear_mwmae.cli import main
from hear_mwmae.mae import MaskedAutoencoder

OFFICIAL = REFERENCE / "official_checkpoint" / "checkpoint_198400"
CLIPS = sorted(AUDIO.iterdir())


@pytest.fixture
def model(tmp_path, small_config) -> str:
    torch.manual_seed(0)
    save_model(tmp_path / "model", small_config, MaskedAutoencoder(small_config).state_dict())
    return str(tmp_path / "model")


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.suffix)
def test_every_format_is_read_mixed_down_and_resampled(path):
    audio = read_audio(path, 16000)
    info = soundfile.info(path)
    assert audio.ndim == 1 and audio.dtype == torch.float32 and 0.01 < audio.abs().max() <= 1.2
    assert len(audio) == pytest.approx(info.duration * 16000, abs=2)


def test_channels_are_averaged_and_the_rate_is_torchaudios(tmp_path):
    stereo = np.stack([np.full(4410, 0.5), np.full(4410, -0.25)], axis=1).astype("f4")
    soundfile.write(tmp_path / "stereo.wav", stereo, 44100, subtype="FLOAT")
    expected = torchaudio.functional.resample(torch.full((4410,), 0.125), 44100, 16000)
    assert torch.equal(read_audio(tmp_path / "stereo.wav", 16000), expected)
    soundfile.write(tmp_path / "plain.wav", stereo[:, 0], 16000, subtype="FLOAT")
    assert read_audio(tmp_path / "plain.wav", 16000).tolist() == [0.5] * 4410


def damaged(folder: Path) -> dict[str, Path]:
    """Files that cannot be embedded, by what is wrong with them."""
    files = {name: folder / f"{name.replace(' ', '_')}.wav" for name in ("not audio", "empty", "truncated", "nan", "header")}
    files["not audio"].write_text("this is not audio")
    soundfile.write(files["empty"], np.zeros(0, "f4"), 16000)
    files["truncated"] = folder / "truncated.flac"
    files["truncated"].write_bytes((AUDIO / "piano.flac").read_bytes()[:40000])
    soundfile.write(files["nan"], np.array([0, np.nan, 0], "f4"), 16000, subtype="FLOAT")
    files["header"].write_bytes((AUDIO / "crow.wav").read_bytes()[:30])
    files["headerless"] = folder / "headerless.raw"
    files["headerless"].write_bytes(bytes(1000))
    return files


def test_unreadable_files_have_a_clear_reason(tmp_path):
    files = damaged(tmp_path)
    for name, reason in {
        "not audio": "not an audio file",
        "empty": "no samples",
        "truncated": "truncated|damaged",
        "headerless": "damaged",
    }.items():
        with pytest.raises(ValueError, match=reason) as caught:
            read_audio(files[name], 16000)
        assert str(files[name]) in str(caught.value)
    with pytest.raises(ValueError, match="no such file"):
        read_audio(tmp_path / "missing.wav", 16000)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.suffix)
def test_truncated_files_are_noticed_in_every_format(path, share, tmp_path):
    content = path.read_bytes()
    (tmp_path / path.name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"truncated|damaged|empty"):
        read_audio(tmp_path / path.name, 16000)


@pytest.mark.parametrize("rate", [11127, 44101, 192007])
def test_odd_rates_are_resampled_in_no_time(rate, tmp_path):
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
    soundfile.write(tmp_path / "odd.wav", tone, rate, subtype="FLOAT")
    audio = read_audio(tmp_path / "odd.wav", 16000)
    assert len(audio) == pytest.approx(16000, abs=2)
    spectrum = torch.fft.rfft(audio * torch.hann_window(len(audio))).abs()
    assert spectrum.argmax().item() * 16000 / len(audio) == pytest.approx(1000, abs=1.1)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x80000000])
def test_a_wav_that_was_streamed_is_whole(tmp_path, size):
    """Its header announces some largest size, since the length was not known when it was written."""
    content = bytearray((AUDIO / "crow.wav").read_bytes())
    place = content.find(b"data") + 4
    content[place : place + 4] = size.to_bytes(4, "little")
    (tmp_path / "stream.wav").write_bytes(content)
    assert torch.equal(read_audio(tmp_path / "stream.wav", 16000), read_audio(AUDIO / "crow.wav", 16000))


@pytest.mark.parametrize(("samples", "whole"), [(0, True), (1 << 35, False)])
def test_a_flac_of_unknown_or_wrong_length(tmp_path, samples, whole):
    """Of its header's 36 bits for the number of samples, 0 says that nobody knew; none may ask for memory without end."""
    content = bytearray((AUDIO / "piano.flac").read_bytes())
    content[21] = content[21] & 0xF0 | samples >> 32
    content[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    (tmp_path / "stream.flac").write_bytes(content)
    if whole:
        assert torch.equal(read_audio(tmp_path / "stream.flac", 16000), read_audio(AUDIO / "piano.flac", 16000))
    else:
        with pytest.raises(ValueError, match=r"stream\.flac: truncated"):
            read_audio(tmp_path / "stream.flac", 16000)


def test_long_audio_is_read_in_blocks(tmp_path, monkeypatch):
    whole = read_audio(AUDIO / "piano.flac", 16000)
    monkeypatch.setattr(audio_files, "BLOCK_FRAMES", 1000)
    assert torch.equal(read_audio(AUDIO / "piano.flac", 16000), whole)
    soundfile.write(tmp_path / "blocks.wav", np.linspace(-0.5, 0.5, 4000), 16000, subtype="FLOAT")
    assert len(read_audio(tmp_path / "blocks.wav", 16000)) == 4000


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
        table = {name: np.stack(frame[name]) if name == "embedding" else frame[name].to_numpy() for name in frame}
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
    assert result.exit_code == 0 and [line.split(":")[0] for line in lines] == [str(path) for path in CLIPS[:2]]


def test_one_bad_file_does_not_stop_the_rest(model, tmp_path):
    bad = damaged(tmp_path)
    result = run("embed", CLIPS[0], *bad.values(), CLIPS[1], "-o", tmp_path / "out.npz", "--model", model)
    assert result.exit_code == 1
    reported = [line for line in result.stderr.splitlines() if line.startswith("not embedded: ")]
    assert len(reported) == len(bad) and all(any(str(path) in line for line in reported) for path in bad.values())
    with np.load(tmp_path / "out.npz") as file:
        assert file["path"].tolist() == [str(path) for path in CLIPS[:2]]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["embed", "missing.wav"], "no such file or folder: missing.wav"),
        (["embed", "{tmp}"], "holds no audio files"),
        (["embed", "{clip}", "-o", "{tmp}/out.txt"], "must be a folder, or end in .npz, .npy, .csv, .parquet"),
        (["embed", "{clip}", "-o", "{tmp}/no/out.npz"], "there is no folder"),
        (["embed", "missing-model-is-not-reached", "-o", "/proc/out.npz"], "cannot write /proc/out.npz"),
        (["embed", "{clip}", "--device", "toaster"], "device 'toaster' cannot be used"),
        (["embed", "{clip}", "--model", "nonsense"], "no model 'nonsense'"),
        (["embed", "{clip}", "--device", "meta"], "device 'meta' cannot be used"),
        (["convert", "{official}", "{clip}/sub"], "crow.wav"),
        (["info", "nonsense"], "no model 'nonsense'"),
        (["convert", "{clip}", "{tmp}/out"], "crow.wav"),
        (["push", "{tmp}", "org/repo", "--dry-run", "{tmp}/up"], "config.json"),
    ],
)
def test_errors_are_one_line_and_a_code(tmp_path, args, message):
    filled = [arg.format(tmp=tmp_path, clip=AUDIO / "crow.wav", official=OFFICIAL) for arg in args]
    result = run(*filled)
    assert result.exit_code == 1
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_info(model):
    text = run("info").stdout
    assert "MW-MAE" in text and "960 numbers per clip" in text and "2, 5, 10, 25, 50, 125, global, global" in text
    assert "width 32" in run("info", model).stdout


def test_convert(tmp_path):
    result = run("convert", OFFICIAL, tmp_path / "converted")
    assert result.exit_code == 0, result.output
    assert hear_mwmae.load_model(str(tmp_path / "converted")).scene_embedding_size == 240


def test_push_dry_run(tmp_path):
    from hear_mwmae.weights import WEIGHTS_DIR

    shutil.copytree(WEIGHTS_DIR / "mwmae-tiny", tmp_path / "mwmae-tiny")
    result = run("push", tmp_path / "mwmae-tiny", "some-org/mwmae-tiny", "--dry-run", tmp_path / "up")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "up").iterdir()) == [
        "README.md",
        "config.json",
        "loss.png",
        "model.safetensors",
    ]
    from huggingface_hub import ModelCard

    card = ModelCard.load(tmp_path / "up" / "README.md")
    assert card.data.library_name == "hear-mwmae" and card.data.pipeline_tag == "feature-extraction"
    assert card.data.license == "apache-2.0" and "audio" in card.data.tags
    assert [result.dataset_name for result in card.data.eval_results] == ["esc10", "spoken_digit"]
    assert 'load_model("some-org/mwmae-tiny")' in card.text
    assert torch.equal(
        hear_mwmae.load_model(str(tmp_path / "up")).scene_embeddings(torch.ones(1, 4000).cumsum(1) % 1),
        hear_mwmae.load_model().scene_embeddings(torch.ones(1, 4000).cumsum(1) % 1),
    )


@pytest.mark.parametrize("command", [[], ["embed"], ["info"], ["convert"], ["push"], ["pretrain"]])
def test_help_teaches(command):
    result = run(*command, "--help")
    assert result.exit_code == 0 and len(result.output) > 300


def test_find_audio_sorts_and_skips_other_files(tmp_path):
    for name in ("b.wav", "a.FLAC", "notes.txt", "deep/c.mp3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in find_audio([tmp_path])] == ["a.FLAC", "b.wav", "c.mp3"]
    assert find_audio([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"]  # asked for by name


def test_find_audio_follows_links(tmp_path):
    """Each folder once, also where links go round in a circle; links to nothing are for the reader to report."""
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.wav").touch()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there")
    (tmp_path / "there" / "back").symlink_to(tmp_path / "here")
    (tmp_path / "here" / "gone.wav").symlink_to(tmp_path / "nowhere")
    assert [str(path.relative_to(tmp_path)) for path in find_audio([tmp_path / "here"])] == [
        "here/a.wav",
        "here/gone.wav",
        "here/link/a.wav",
    ]


def test_the_installed_command_and_a_light_import():
    """The entry point runs; importing the package pulls in nothing that only training or evaluation needs."""
    done = subprocess.run([Path(sys.executable).with_name("hear-mwmae"), "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and hear_mwmae.__version__ in done.stdout
    code = (
        "import sys, hear_mwmae;"
        "print([m for m in ('sklearn', 'pandas', 'pyarrow', 'tensorflow', 'av', 'hear_mwmae.mae', 'hear_mwmae.training') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
