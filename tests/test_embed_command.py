"""`hear-mwmae embed`: inputs of every kind, outputs, failures, memory."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
import webdataset
from embed_command import ENVIRONMENT, provenance, read, run
from file_server import FileServer
from reference import AUDIO

import hear_mwmae
from hear_mwmae import embedder
from hear_mwmae.audio import read_audio

CROW, PIANO = AUDIO / "crow.wav", AUDIO / "piano.flac"


@pytest.fixture(scope="module")
def model(saved_model) -> str:
    return str(saved_model)


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("name", ["a.npz", "a.csv", "a.parquet", "folder"])
def test_outputs_are_the_same_table(model, tmp_path, name, timestamps, monkeypatch):
    """With what made it; also where batches end between files, and where a clip is many pieces. A
    file that is named twice counts once.
    """
    monkeypatch.setattr(embedder, "PIECE_CHUNKS", 2)
    paths = sorted(AUDIO.iterdir())
    options = ["--batch-size", 3, *(["--timestamps"] if timestamps else [])]
    result = run(*paths, paths[0], "-o", tmp_path / name, "--model", model, *options)
    assert result.exit_code == 0, result.output
    table, loaded, row = read(tmp_path / name), hear_mwmae.load_model(model), 0
    for path in paths:
        audio = read_audio(path, 16000)[None]
        if timestamps:
            steps, times = loaded(audio, timestamps=True)
            expected = steps[0].numpy()
            assert table["timestamp"][row : row + len(expected)].tolist() == times[0].tolist()
        else:
            expected = loaded(audio).numpy()
        assert set(table["path"][row : row + len(expected)]) == {str(path)}
        assert set(table["seconds"][row : row + len(expected)]) == {audio.shape[1] / 16000}
        assert np.abs(table["embedding"][row : row + len(expected)] - expected).max() < 1e-5
        row += len(expected)
    assert row == len(table["embedding"]) == len(table["path"])
    assert table["embedding"].dtype == np.float32
    about = provenance(tmp_path / name)
    assert about["model"] == model and about["package"] == f"hear-mwmae {hear_mwmae.__version__}"
    assert about["dtype"] == "float32" and len(about["weights"]) == 64
    kinds = ("none", "centred") if timestamps else ("mean", "none")
    assert (about["pooling"], about["timestamps"]) == kinds


def tar(path: Path) -> list[str]:
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        names = {"a.1": "crow.wav", "b": "piano.flac", "c": None, "d": "till.opus"}
        for number, (key, name) in enumerate(names.items()):
            content = (AUDIO / name).read_bytes() if name else b"broken"
            labels = json.dumps({"path": "elsewhere", "label": number, "tags": [key]}).encode()
            ending = name.split(".")[1] if name else "mp3"
            writer.write({"__key__": key, ending: content, "json": labels})
    return ["a.1.wav", "b.flac", "c.mp3", "d.opus"]


def parquet(path: Path) -> list[str]:
    contents = [(AUDIO / name).read_bytes() for name in ("crow.wav", "piano.flac", "till.opus")]
    contents.insert(2, b"broken")
    audio = [
        {"bytes": content, "path": f"{number}.x" if number else None}
        for number, content in enumerate(contents)
    ]
    labels = {"label": range(4), "tags": [["a.1"], ["b"], ["c"], ["d"]]}
    pq.write_table(pyarrow.table({"audio": audio, **labels}), path)
    return ["row 0", "1.x", "2.x", "3.x"]


@pytest.mark.parametrize("shard", [tar, parquet])
def test_shards_here_and_on_a_server(model, tmp_path, shard):
    """With their labels as text."""
    path = tmp_path / f"shard.{shard.__name__}"
    names = shard(path)
    loaded = hear_mwmae.load_model(model)
    expected = loaded.embed([AUDIO / name for name in ("crow.wav", "piano.flac", "till.opus")])
    with FileServer(tmp_path) as server:
        for source in (str(path), f"{server.url}/{path.name}"):
            out = tmp_path / f"{len(source)}.npz"
            for summary in ([], ["0 new, 0 changed, 0 gone, 1 kept"]):
                result = run(source, "-o", out, "--model", model)
                assert result.exit_code == 1 and result.stderr.count("not embedded: ") == 1
                assert f"{source}/{names[2]}: not an audio file" in result.stderr
                assert result.stdout.splitlines() == [*summary, f"3 of 4 clips -> {out}"]
            table = read(out)
            assert table["path"].tolist() == [f"{source}/{names[place]}" for place in (0, 1, 3)]
            assert table["label"].tolist() == ["0", "1", "3"]
            assert table["tags"].tolist() == ['["a.1"]', '["b"]', '["d"]']
            assert np.abs(table["embedding"] - expected.numpy()).max() < 1e-5


def test_a_server_that_fails_stops_the_command(model, tmp_path):
    """And the same command resumes the run."""
    tar(tmp_path / "shard.tar")
    with FileServer(tmp_path) as server:
        command = CROW, f"{server.url}/shard.tar", "-o", tmp_path / "out.npz", "--model", model
        server.cuts["/shard.tar"] = 100
        result = run(*command)
        assert result.exit_code == 1 and not (tmp_path / "out.npz").exists()
        assert result.stderr.startswith(f"Error: {server.url}/shard.tar cannot be read: ")
        assert result.stderr.count("\n") == 1
        server.cuts.clear()
        result = run(*command)
    assert result.stdout.splitlines()[0] == "1 new, 0 changed, 0 gone, 1 kept"
    assert len(read(tmp_path / "out.npz")["path"]) == 4


def test_manifests_folders_and_files_together(model, tmp_path):
    (tmp_path / "lists").mkdir()
    manifest = f"label,path\ncrow,../crow.wav\nmissing,gone.wav\nglass,{AUDIO / 'glass.mp3'}\n"
    (tmp_path / "lists" / "list.csv").write_text(manifest)
    (tmp_path / "crow.wav").write_bytes(CROW.read_bytes())
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "tabla.ogg").write_bytes((AUDIO / "tabla.ogg").read_bytes())
    (tmp_path / "folder" / "broken.wav").symlink_to("nowhere")
    (tmp_path / "none.csv").write_text("file\n")
    (tmp_path / "closed.tar").mkdir()
    names = ("lists/list.csv", "mistyped", "folder", "none.csv", "no-shard.tar", "closed.tar")
    sources = [tmp_path / name for name in names]
    result = run(*sources, PIANO, "-o", tmp_path / "out.npz", "--model", model)
    assert result.exit_code == 1
    table = read(tmp_path / "out.npz")
    assert table["path"].tolist() == [
        str(tmp_path / "lists" / ".." / "crow.wav"),
        str(AUDIO / "glass.mp3"),
        str(tmp_path / "folder" / "deep" / "tabla.ogg"),
        str(PIANO),
    ]
    assert table["label"].tolist() == ["crow", "glass", "", ""]
    with open(tmp_path / "out.npz.failures.csv", newline="") as stream:
        failures = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(stream)}
    for name, reason in {
        "gone.wav": "no such file",
        "mistyped": "no such file",
        "broken.wav": "no such file",
        "none.csv": "has no column path",
        "no-shard.tar": "No such file",
        "closed.tar": "Is a directory",
    }.items():
        assert reason in failures.pop(name)
        assert sum(name in line for line in result.stderr.splitlines()) == 1
    assert not failures and "4 of 10 clips" in result.stdout


@pytest.mark.parametrize("name", ["out.npz", "out.parquet", "folder"])
def test_labels_belong_to_an_input(model, tmp_path, name):
    """Those that changed are embedded again; all parts of a folder have the same columns."""
    out, manifest = tmp_path / name, tmp_path / "list.csv"
    manifest.write_text(f"path,label,file\n{CROW},crow,x\n{PIANO},piano,\n")
    assert run(manifest, "-o", out, "--model", model).exit_code == 0
    before = read(out)
    assert before["label"].tolist() == ["crow", "piano"] and before["file"][0] == "x"
    manifest.write_text(f"path,label,speaker,seconds\n{PIANO},piano,,7\n{CROW},bird,me,8\n")
    result = run(manifest, AUDIO / "till.opus", "-o", out, "--model", model)
    assert result.stdout.splitlines()[0] == "1 new, 2 changed, 0 gone, 0 kept"
    manifest.write_text(f"path,label,speaker,seconds\n{PIANO},note,,7\n{CROW},bird,me,8\n")
    result = run(manifest, AUDIO / "till.opus", "-o", out, "--model", model)
    assert result.stdout.splitlines()[0] == "0 new, 1 changed, 0 gone, 2 kept"
    table, empty = read(out), "" if name == "out.npz" else None
    assert table["path"].tolist() == [str(CROW), str(AUDIO / "till.opus"), str(PIANO)]
    assert table["label"].tolist() == ["bird", empty, "note"]
    assert table["speaker"].tolist() == ["me", empty, empty]
    assert list(table) == ["path", "seconds", "label", "speaker", "embedding"]
    assert np.abs(table["embedding"][[0, 2]] - before["embedding"]).max() < 1e-5
    assert np.array_equal(table["seconds"][[0, 2]], before["seconds"])
    assert run(AUDIO / "till.opus", "-o", out, "--model", model).exit_code == 0
    assert list(read(out)) == ["path", "seconds", "embedding"]


def test_overwriting_replaces_no_files_of_others(model, tmp_path):
    (tmp_path / "part-0.parquet").write_bytes(b"of another program")
    result = run(CROW, "-o", tmp_path, "--overwrite", "--model", model)
    assert result.exit_code == 1 and "holds part-0.parquet" in result.stderr
    assert (tmp_path / "part-0.parquet").read_bytes() == b"of another program"


def test_nothing_could_be_embedded(model, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    result = run(tmp_path / "bad.wav", "-o", tmp_path / "out.npz", "--model", model)
    assert result.exit_code == 1 and "Error: nothing to write" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"bad.wav", "out.npz.failures.csv"}


def test_names_that_are_no_characters(model, tmp_path):
    name = os.fsencode(tmp_path) + b'/\xff,"1".wav'
    Path(os.fsdecode(name)).write_bytes(CROW.read_bytes())
    bad = os.fsdecode(name.replace(b"\xff", b"\xfe"))
    Path(bad).write_bytes(b"no audio")
    assert run(bad, CROW, "-o", tmp_path / "bad.npz", "--model", model).exit_code == 1
    with open(tmp_path / "bad.npz.failures.csv", newline="", encoding="utf-8") as stream:
        assert [row["path"] for row in csv.DictReader(stream)] == [f'{tmp_path}/\\xfe,"1".wav']
    for out in ("out.npz", "out.csv", "out.parquet"):
        for _ in range(2):  # the second run finds it done
            assert run(os.fsdecode(name), "-o", tmp_path / out, "--model", model).exit_code == 0
        assert read(tmp_path / out)["path"].tolist() == [f'{tmp_path}/\\xff,"1".wav']


def test_help_waits_for_nothing():
    code = (
        "import sys; from hear_mwmae.cli import main; from click.testing import CliRunner;"
        "commands = ['-h'], ['--version'], ['embed', '-h'], ['pretrain', '-h'];"
        "print([CliRunner().invoke(main, command).exit_code for command in commands]);"
        "names = 'torch', 'numpy', 'soundfile', 'pyarrow', 'ray', 'huggingface_hub';"
        "print([name for name in names if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert done.stdout.splitlines() == ["[0, 0, 0, 0]", "[]"]
