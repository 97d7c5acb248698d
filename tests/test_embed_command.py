"""`hear-mwmae embed`: inputs of every kind, outputs, failures, memory."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import interrupted
import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import soundfile
import webdataset
from click.testing import CliRunner
from embed_command import ENVIRONMENT, read, run
from file_server import FileServer
from reference import AUDIO

import hear_mwmae
from hear_mwmae.audio import read_audio
from hear_mwmae.checkpoint import save_model
from hear_mwmae.cli import main
from hear_mwmae.cli.options import Command
from hear_mwmae.config import DecoderConfig, EncoderConfig, ModelConfig
from hear_mwmae.embedding import parts
from hear_mwmae.mae import MaskedAutoencoder


@pytest.fixture(scope="module")
def model(saved_model) -> str:
    return str(saved_model)


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.csv", "a.parquet", "folder"])
def test_outputs_are_the_same_table(model, tmp_path, name, timestamps, monkeypatch):
    """Also where blocks of rows end inside a clip, or hold several."""
    monkeypatch.setattr(parts, "BLOCK_ROWS", 37)
    paths = [path for path in sorted(AUDIO.iterdir()) for _ in range(2)]  # of one length in a row
    result = run(*paths, "-o", tmp_path / name, "--model", model, *["--timestamps"] * timestamps)
    assert result.exit_code == 0, result.output
    table, loaded, row = read(tmp_path / name), hear_mwmae.load_model(model), 0
    for path in paths:
        audio = read_audio(path, 16000)[None]
        if timestamps:
            steps, times = loaded.timestamp_embeddings(audio)
            expected = steps[0].numpy()
            assert table["timestamp"][row : row + len(expected)].tolist() == times[0].tolist()
        else:
            expected = loaded.scene_embeddings(audio).numpy()
        assert set(table["path"][row : row + len(expected)]) == {str(path)}
        assert np.abs(table["embedding"][row : row + len(expected)] - expected).max() < 1e-5
        row += len(expected)
    assert row == len(table["embedding"]) == len(table["path"]) and table["embedding"].dtype == np.float32
    assert {file.name for file in tmp_path.iterdir()} == {name, *["a.csv"] * (name == "a.npy")}


def tar(path: Path) -> list[str]:
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for key, name in (("a.1", "crow.wav"), ("b", "piano.flac"), ("c", None), ("d", "till.opus")):
            content = (AUDIO / name).read_bytes() if name else b"broken"
            writer.write({"__key__": key, name.split(".")[1] if name else "mp3": content, "json": b'{"path": "elsewhere"}'})
    return ["a.1.wav", "b.flac", "c.mp3", "d.opus"]


def parquet(path: Path) -> list[str]:
    contents = [(AUDIO / name).read_bytes() for name in ("crow.wav", "piano.flac", "till.opus")]
    contents.insert(2, b"broken")
    audio = [{"bytes": content, "path": f"{number}.x" if number else None} for number, content in enumerate(contents)]
    pq.write_table(pyarrow.table({"audio": audio}), path)
    return ["row 0", "1.x", "2.x", "3.x"]


@pytest.mark.parametrize("shard", [tar, parquet])
def test_shards_here_and_on_a_server(model, tmp_path, shard, monkeypatch):
    """No temporary file per clip; interrupted, a shard is gone on with in the middle."""
    path = tmp_path / f"shard.{shard.__name__}"
    names = shard(path)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", lambda **_: pytest.fail("a temporary file"))
    monkeypatch.setattr(interrupted.groups, "GROUP_CHUNKS", 1)
    loaded = hear_mwmae.load_model(model)
    clips = [read_audio(AUDIO / name, 16000) for name in ("crow.wav", "piano.flac", "till.opus")]
    expected = loaded.scene_embeddings_of_clips(clips).numpy()
    with FileServer(tmp_path) as server:
        for source in (str(path), f"{server.url}/{path.name}"):
            out = tmp_path / f"{len(source)}.npz"
            with monkeypatch.context() as patch:
                interrupted.Events(12, ctrl_c=True).watch_all(patch.setattr)
                assert run(source, "-o", out, "--model", model).exit_code == 130
            assert len((tmp_path / f"{out.name}.parts" / "part-00000.jsonl").read_text().splitlines()) in (1, 2)
            result = run(source, "-o", out, "--model", model)
            assert result.exit_code == 1 and result.stderr.count("not embedded: ") == 1
            assert f"{source}/{names[2]}: not an audio file" in result.stderr and "/proc/" not in result.stderr
            table = read(out)
            assert table["path"].tolist() == [f"{source}/{names[place]}" for place in (0, 1, 3)]
            assert np.abs(table["embedding"] - expected).max() < 1e-5


def test_manifests_folders_and_files_together(model, tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.csv").write_text(f"label,path\ncrow,../crow.wav\nmissing,gone.wav\nglass,{AUDIO / 'glass.mp3'}\n")
    (tmp_path / "crow.wav").write_bytes((AUDIO / "crow.wav").read_bytes())
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "tabla.ogg").write_bytes((AUDIO / "tabla.ogg").read_bytes())
    (tmp_path / "folder" / "speech.tak").touch()
    (tmp_path / "folder" / "broken.wav").symlink_to("nowhere")
    (tmp_path / "none.csv").write_text("file\n")
    sources = [tmp_path / name for name in ("lists/list.csv", "mistyped", "folder", "none.csv", "no-shard.tar")]
    result = run(*sources, AUDIO / "piano.flac", "-o", tmp_path / "out.npz", "--model", model)
    assert result.exit_code == 1
    assert read(tmp_path / "out.npz")["path"].tolist() == [
        str(tmp_path / "lists" / ".." / "crow.wav"),
        str(AUDIO / "glass.mp3"),
        str(tmp_path / "folder" / "deep" / "tabla.ogg"),
        str(AUDIO / "piano.flac"),
    ]
    with open(tmp_path / "out.npz.failures.csv", newline="") as stream:
        failures = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(stream)}
    for name, reason in {
        "gone.wav": "no such file",
        "mistyped": "no such file or folder",
        "broken.wav": "no such file",
        "none.csv": "has no column path",
        "no-shard.tar": "no such shard",
    }.items():
        assert reason in failures.pop(name)
        assert sum(name in line for line in result.stderr.splitlines()) == 1
    assert not failures and "1 .tak" in result.stderr and "4 of 9 clips" in result.stdout
    packed = CliRunner().invoke(main, ["pack", "--jobs", "1", str(tmp_path / "folder"), str(tmp_path / "pack")])
    assert packed.exit_code == 0 and "not read: 1 .tak" in packed.stderr  # the same reader


def test_parts_without_a_plan_are_not_taken_for_this_run(model, tmp_path):
    """Of a folder that was only partly removed: its rows may be another model's."""
    out = tmp_path / "out.npz"
    parts = tmp_path / "out.npz.parts"
    parts.mkdir()
    (parts / "part-00000.rows").write_bytes(bytes(4 * hear_mwmae.load_model(model).scene_embedding_size))
    (parts / "part-00000.jsonl").write_text('{"clips": [["stale.wav", 1]], "failures": []}\n{"end": true}\n')
    assert run(AUDIO / "crow.wav", "-o", out, "--model", model).exit_code == 0
    assert read(out)["path"].tolist() == [str(AUDIO / "crow.wav")]


def test_nothing_could_be_embedded(model, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    result = run(tmp_path / "bad.wav", "-o", tmp_path / "out.npz", "--model", model)
    assert result.exit_code == 1 and "Error: nothing to write" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"bad.wav", "out.npz.failures.csv"}


def test_names_that_are_no_characters(model, tmp_path):
    name = os.fsencode(tmp_path) + b'/\xff,"1".wav'
    Path(os.fsdecode(name)).write_bytes((AUDIO / "crow.wav").read_bytes())
    bad = os.fsdecode(name.replace(b"\xff", b"\xfe"))
    Path(bad).write_bytes(b"no audio")
    assert run(bad, AUDIO / "crow.wav", "-o", tmp_path / "bad.npz", "--model", model).exit_code == 1
    with open(tmp_path / "bad.npz.failures.csv", newline="", encoding="utf-8") as stream:
        assert [row["path"] for row in csv.DictReader(stream)] == [f'{tmp_path}/\\xfe,"1".wav']
    for out in ("out.npz", "out.csv", "out.parquet"):
        assert run(os.fsdecode(name), "-o", tmp_path / out, "--model", model).exit_code == 0
        assert read(tmp_path / out)["path"].tolist() == [f'{tmp_path}/\\xff,"1".wav']


def test_a_long_file_is_never_in_memory(tmp_path):
    """Half an hour of it, of which the rows alone are 173 MB, costs less than these above what
    three minutes do.
    """
    config = ModelConfig(EncoderConfig(192, 1, 3), DecoderConfig(32, 1, 1, window_sizes=(0,)))
    save_model(tmp_path / "model", config, MaskedAutoencoder(config).state_dict())
    random, memory = np.random.default_rng(0), {}
    for minutes in (3, 30):
        with soundfile.SoundFile(tmp_path / f"{minutes}.wav", "w", 16000, 1) as file:
            for _ in range(minutes):
                file.write(random.uniform(-0.5, 0.5, 960000))
        code = (
            "import sys; from hear_mwmae.cli import main; main(sys.argv[1:], standalone_mode=False);"
            "print(*[line for line in open('/proc/self/status') if line.startswith('VmHWM')])"
        )
        command = [sys.executable, "-c", code, "embed", "--timestamps", "--quiet", "--model", str(tmp_path / "model")]
        command += [str(tmp_path / f"{minutes}.wav"), "-o", str(tmp_path / f"{minutes}.npz")]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr
        memory[minutes] = int(done.stdout.split()[-2]) / 1024
    assert memory[30] - memory[3] < 173, memory
    embeddings = np.load(tmp_path / "30.npz")["embedding"]
    assert embeddings.shape == (45000, 960) and np.isfinite(embeddings).all()


def test_the_bar_counts_seconds_of_audio(model, tmp_path):
    with_bar = CliRunner().invoke(main, ["embed", str(AUDIO), "-o", str(tmp_path / "a.npz"), "--model", model])
    seconds = round(sum(soundfile.info(path).duration for path in AUDIO.iterdir()))
    assert f"{seconds}/{seconds} s" in with_bar.stderr
    assert run(AUDIO, "-o", tmp_path / "a.npz", "--model", model).stderr == ""


def test_help_waits_for_nothing():
    code = (
        "import sys; from hear_mwmae.cli import main; from click.testing import CliRunner;"
        "commands = ['-h'], ['--version'], ['embed', '-h'], ['pretrain', '-h'];"
        "print([CliRunner().invoke(main, command).exit_code for command in commands]);"
        "print([name for name in ('torch', 'numpy', 'soundfile', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert done.stdout.splitlines() == ["[0, 0, 0, 0]", "[]"]


def test_the_list_of_commands_is_not_cut_off():
    text = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    assert "..." not in text.partition("Commands:")[2]
    assert all(f"\n  {name} " in text for name in main.commands)
    assert all(isinstance(command, Command) for command in main.commands.values())  # with -h, --debug and errors in one line


def test_embedding_files_imports_no_shards(model, tmp_path):
    code = (
        "import sys; from hear_mwmae.cli import main; main(sys.argv[1:], standalone_mode=False);"
        "print([name for name in ('fsspec', 'aiohttp', 'webdataset', 'pyarrow', 'braceexpand') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "embed", str(AUDIO / "crow.wav"), "-o", str(tmp_path / "a.npz"), "--model", model]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert done.stdout.splitlines()[-1] == "[]"
