"""`hear-mwmae embed`: what any interruption leaves, and how an output grows."""

import csv
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import interrupted
import numpy as np
import pytest
import soundfile
import webdataset
from embed_command import ENVIRONMENT, TESTS, read, run
from filelock import FileLock
from reference import AUDIO

from hear_mwmae.embedder import Embedder

CLIPS = 240


@pytest.fixture(scope="module")
def model(saved_model) -> str:
    return str(saved_model)


def noise(path: Path, seed: int, samples: int = 4000) -> None:
    audio = np.random.default_rng(seed).uniform(-0.5, 0.5, samples)
    soundfile.write(path, audio, 16000, subtype="FLOAT")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A folder of short clips of noise, of many lengths; one in thirty is damaged."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(CLIPS):
        path = folder / f"{number:03d}.wav"
        if number % 30 == 7:
            path.write_bytes(b"no audio")
        else:
            noise(path, number, 1000 + 29 * number)
    return folder


@pytest.fixture
def embedded(monkeypatch) -> list[int]:
    """The numbers of samples of each clip that goes through the model."""
    clips, time_steps = [], Embedder.time_steps

    def counted(self: Embedder, batches: Iterable) -> Iterator:
        for pieces, samples in time_steps(self, batches):
            clips.append(samples)
            yield pieces, samples

    monkeypatch.setattr(Embedder, "time_steps", counted)
    return clips


def equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    """The same rows; other batches of the encoder are rounded in another way."""
    embeddings = left.pop("embedding"), right.pop("embedding")
    same = all(np.array_equal(left[name], right[name]) for name in left.keys() | right.keys())
    return same and np.abs(np.subtract(*embeddings)).max() < 1e-5


@pytest.fixture(scope="module")
def whole(model, clips, tmp_path_factory) -> Path:
    """The table of one run without interruption, in small groups."""
    out = tmp_path_factory.mktemp("whole") / "out.npz"
    with pytest.MonkeyPatch.context() as patch:
        interrupted.small(patch.setattr)
        assert run(clips, "-o", out, "--model", model).exit_code == 1
    assert len(read(out)["path"]) == CLIPS * 29 // 30
    return out


def test_killed_six_times(model, clips, whole, tmp_path):
    """The same table; embedded again is only what a kill has found in the encoder, a part of
    sixteen at most.
    """
    out = tmp_path / "out.npz"
    command = [sys.executable, str(TESTS / "interrupted.py"), "6", "1", "embed", str(clips)]
    command += ["-o", str(out), "--model", model, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert equal(read(out), read(whole))
    embedded, expected = done.stdout.count("clip\n"), CLIPS * 29 // 30
    assert expected <= embedded <= expected + 6 * 16
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".lock"]
    with open(tmp_path / "out.npz.failures.csv", newline="") as stream:
        failures = list(csv.DictReader(stream))
    bad = [str(clips / f"{number:03d}.wav") for number in range(7, CLIPS, 30)]
    assert [row["path"] for row in failures] == bad
    assert all("not an audio file" in row["reason"] for row in failures)


def test_ctrl_c_says_how_to_go_on(model, clips, whole, tmp_path, monkeypatch):
    interrupted.small(monkeypatch.setattr)
    with monkeypatch.context() as patch:
        interrupted.Events(10, ctrl_c=True).watch_all(patch.setattr)
        result = run(clips, "-o", tmp_path / "out.npz", "--model", model)
    assert result.exit_code == 130 and not (tmp_path / "out.npz").exists()
    assert "interrupted: what is done is kept" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert any((tmp_path / "out.npz.parts").glob("*.parquet"))
    assert run(clips, "-o", tmp_path / "out.npz", "--model", model).exit_code == 1
    assert equal(read(tmp_path / "out.npz"), read(whole))


@pytest.mark.parametrize("limit", [4000, 100_000])
def test_a_full_disk_is_one_line_and_loses_nothing(
    model, clips, whole, tmp_path, monkeypatch, limit
):
    """Full in the first part, and where the table is put together."""
    interrupted.small(monkeypatch.setattr)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        result = run(clips, "-o", tmp_path / "out.npz", "--model", model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("Error: cannot write ")
    assert "the same command resumes the run" in result.stderr
    assert not (tmp_path / "out.npz").exists() and not list(tmp_path.rglob(".*.tmp"))
    assert run(clips, "-o", tmp_path / "out.npz", "--model", model).exit_code == 1
    assert equal(read(tmp_path / "out.npz"), read(whole))


@pytest.mark.parametrize("name", ["out.npz", "folder"])
def test_an_output_grows_and_shrinks(model, tmp_path, embedded, name):
    """Only what is new or changed is embedded, and what had failed; its rows come last."""
    folder, out = tmp_path / "clips", tmp_path / name
    folder.mkdir()
    for number in range(8):
        noise(folder / f"{number}.wav", number)
    (folder / "bad.wav").write_bytes(b"no audio")
    first = run(folder, "-o", out, "--model", model)
    assert first.exit_code == 1 and first.stdout == f"8 of 9 clips -> {out}\n"
    (folder / "3.wav").unlink()
    noise(folder / "5.wav", 50, 5000)
    noise(folder / "00.wav", 20)
    noise(folder / "9.wav", 21)
    noise(folder / "bad.wav", 22)
    embedded.clear()
    result = run(folder, "-o", out, "--model", model)
    assert result.exit_code == 0 and len(embedded) == 4
    assert result.stdout.splitlines()[0] == "3 new, 1 changed, 1 gone, 6 kept"
    assert not (tmp_path / f"{name}.failures.csv").exists()
    fresh = tmp_path / "fresh.npz"
    assert run(folder, "-o", fresh, "--model", model).exit_code == 0
    table, expected = read(out), read(fresh)
    added = [str(folder / f"{number}.wav") for number in ("00", "5", "9", "bad")]
    assert table["path"][-4:].tolist() == added
    order = np.argsort(table["path"])
    assert table["path"][order].tolist() == expected["path"].tolist()
    assert np.abs(table["embedding"][order] - expected["embedding"]).max() < 1e-5
    embedded.clear()
    result = run(folder, "-o", out, "--model", model)
    assert result.stdout.splitlines()[0] == "0 new, 0 changed, 0 gone, 10 kept" and not embedded
    assert equal(read(out), table)
    if name == "out.npz":  # without the parts, nothing tells what made a table
        shutil.rmtree(tmp_path / "out.npz.parts")
        result = run(folder, "-o", out, "--model", model)
        assert result.exit_code == 1 and "its parts are gone: --overwrite" in result.stderr
        assert run(folder, "-o", out, "--model", model, "--overwrite").exit_code == 0
        assert len(embedded) == 10


def test_a_shard_is_whole_or_not_there(model, tmp_path, monkeypatch, embedded):
    """Its labels become columns wherever they begin."""
    with webdataset.TarWriter(str(tmp_path / "shard.tar"), encoder=False) as writer:
        for number in range(6):
            noise(tmp_path / "clip.wav", number, 60_000)
            sample = {"__key__": str(number), "wav": (tmp_path / "clip.wav").read_bytes()}
            if number > 2:
                sample["json"] = json.dumps({"label": number}).encode()
            writer.write(sample)
    options = "-o", tmp_path / "out.npz", "--model", model, "--timestamps", "--batch-size", "2"
    with monkeypatch.context() as patch:
        interrupted.Events(4, ctrl_c=True).watch_all(patch.setattr)
        assert run(tmp_path / "shard.tar", *options).exit_code == 130
    assert not list((tmp_path / "out.npz.parts").glob("part-*"))
    embedded.clear()
    result = run(tmp_path / "shard.tar", *options)
    assert result.exit_code == 0 and "6 of 6 clips" in result.stdout and len(embedded) == 6
    table = read(tmp_path / "out.npz")
    assert table["path"].tolist() == [
        f"{tmp_path}/shard.tar/{number}.wav" for number in range(6) for _ in range(94)
    ]
    assert table["label"][::94].tolist() == ["", "", "", "3", "4", "5"]
    embedded.clear()
    assert run(tmp_path / "shard.tar", *options).exit_code == 0 and not embedded
    assert equal(read(tmp_path / "out.npz"), table)


def test_what_cannot_be_found_now_is_kept(model, tmp_path, embedded):
    """As on a disk that is not there; but what is not among the inputs any more is dropped."""
    for number, name in enumerate(("a", "b", "listed")):
        (tmp_path / name).mkdir()
        noise(tmp_path / name / "clip.wav", number)
    noise(tmp_path / "a" / "deleted.wav", 3)
    (tmp_path / "list.csv").write_text("path\nlisted/clip.wav\n")
    sources = [tmp_path / name for name in ("a", "b", "list.csv")]
    command = *sources, "-o", tmp_path / "out.npz", "--model", model
    assert run(*command).exit_code == 0
    before = read(tmp_path / "out.npz")["embedding"]
    embedded.clear()
    for name in ("listed", "b"):
        (tmp_path / name).rename(tmp_path / "away")
        result = run(*command)
        assert result.exit_code == 1 and "not embedded: " in result.stderr
        assert result.stdout.startswith("0 new, 0 changed, 0 gone, 4 kept")
        assert np.array_equal(read(tmp_path / "out.npz")["embedding"], before)
        (tmp_path / "away").rename(tmp_path / name)
    (tmp_path / "a" / "deleted.wav").unlink()
    result = run(*command)
    assert result.exit_code == 0 and not embedded
    assert result.stdout.startswith("0 new, 0 changed, 1 gone, 3 kept")
    assert len(read(tmp_path / "out.npz")["path"]) == 3


def test_what_is_in_the_way(model, tmp_path):
    """Another model, other files, a table of somebody's: one line, and nothing is touched."""
    crow = AUDIO / "crow.wav"
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").touch()
    foreign = run(crow, "-o", tmp_path / "foreign", "--model", model)
    assert "is not empty (it holds file)" in foreign.stderr
    (tmp_path / "list.csv").write_text(f"path\n{crow}\n")
    listed = run(tmp_path / "list.csv", "-o", tmp_path / "list.csv", "--model", model)
    assert "is not an output of this command" in listed.stderr
    assert (tmp_path / "list.csv").read_text() == f"path\n{crow}\n"
    assert {path.name for path in tmp_path.iterdir()} == {"foreign", "list.csv"}
    for name in ("a.npz", "folder"):
        out = tmp_path / name
        assert run(crow, "-o", out, "--model", model).exit_code == 0
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
        for changes, differs in (
            (["--timestamps"], "timestamps none, not centred"),
            (["--dtype", "bfloat16"], "dtype float32, not bfloat16"),
            (["--pooling", "max"], "pooling mean, not max"),
            (["--model", ""], "(weights "),
        ):
            result = run(crow, "-o", out, "--model", model, *changes)
            assert result.exit_code == 1 and differs in result.stderr, result.stderr
            assert result.stderr.count("\n") == 1 and "--overwrite" in result.stderr
        assert {path: path.read_bytes() for path in before} == before
    change = crow, "-o", tmp_path / "a.npz", "--model", model, "--timestamps", "--overwrite"
    assert run(*change).exit_code == 0 and "timestamp" in read(tmp_path / "a.npz")
    assert "0 new, 0 changed, 0 gone, 1 kept" in run(*change).stdout  # so it resumes, too


def test_two_runs_into_one_output_and_a_damaged_part(model, tmp_path):
    out, parts = tmp_path / "out.npz", tmp_path / "out.npz.parts"
    parts.mkdir()
    with FileLock(parts / ".lock"):
        result = run(AUDIO, "-o", out, "--model", model)
    assert result.exit_code == 1
    assert result.stderr == f"Error: another process is embedding into {out}\n"
    assert run(AUDIO, "-o", out, "--model", model).exit_code == 0
    (part,) = parts.glob("*.parquet")
    whole = part.read_bytes()
    for damaged in (whole[:1000], whole[:-300] + b"\xff" * 292 + whole[-8:]):
        part.write_bytes(damaged)
        result = run(AUDIO, "-o", out, "--model", model)
        assert result.exit_code == 1 and f"{part} is damaged" in result.stderr
        assert run(AUDIO, "-o", out, "--model", model, "--overwrite").exit_code == 0
