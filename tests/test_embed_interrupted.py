"""`hear-mwmae embed`: what any interruption leaves, several processes, and what is in the way."""

from __future__ import annotations

import csv
import os
import resource
import subprocess
import sys
from pathlib import Path

import interrupted
import numpy as np
import pytest
import soundfile
from embed_command import ENVIRONMENT, TESTS, read, run
from reference import AUDIO

CLIPS = 240


@pytest.fixture(scope="module")
def model(saved_model) -> str:
    return str(saved_model)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A folder of short clips of noise, of many lengths; one in thirty is damaged."""
    folder, random = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for number in range(CLIPS):
        path = folder / f"{number:03d}.wav"
        if number % 30 == 7:
            path.write_bytes(b"no audio")
        else:
            soundfile.write(path, random.uniform(-0.5, 0.5, random.integers(1000, 8000)), 16000, subtype="FLOAT")
    return folder


def equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def content(output: Path) -> dict[str, bytes]:
    """The bytes of a table, or of all files of a dataset."""
    files = sorted(output.glob("*.parquet")) if output.is_dir() else [output]
    return {file.name if output.is_dir() else file.suffix: file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def whole(model, clips, tmp_path_factory) -> Path:
    """The table of one run without interruption, in small groups."""
    out = tmp_path_factory.mktemp("whole") / "out.npz"
    with pytest.MonkeyPatch.context() as patch:
        interrupted.small(patch.setattr)
        assert run(clips, "-o", out, "--model", model).exit_code == 1
    assert len(read(out)["path"]) == CLIPS * 29 // 30
    return out


@pytest.mark.parametrize("name", ["out.npz", "dataset"])
def test_killed_twenty_times(model, clips, whole, tmp_path, name):
    """The same table to the byte; embedded again is only what a kill has found in the encoder, a
    group of eight at most.
    """
    command = [sys.executable, str(TESTS / "interrupted.py"), "20", "1", "embed", str(clips), "-o", str(tmp_path / name)]
    done = subprocess.run([*command, "--model", model, "--quiet"], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert equal(read(tmp_path / name), read(whole))
    if name == "out.npz":
        assert content(tmp_path / name) == content(whole)
        assert not (tmp_path / "out.npz.parts").exists()
    embedded, expected = done.stdout.count("clip\n"), CLIPS * 29 // 30
    assert expected <= embedded <= expected + 20 * 8
    with open(tmp_path / f"{name}.failures.csv", newline="") as stream:
        failures = list(csv.DictReader(stream))
    assert [row["path"] for row in failures] == [str(clips / f"{number:03d}.wav") for number in range(7, CLIPS, 30)]
    assert all("not an audio file" in row["reason"] for row in failures)


def test_ctrl_c_says_how_to_go_on(model, clips, whole, tmp_path, monkeypatch):
    interrupted.small(monkeypatch.setattr)
    with monkeypatch.context() as patch:
        interrupted.Events(40, ctrl_c=True).watch_all(patch.setattr)
        result = run(clips, "-o", tmp_path / "out.npz", "--model", model)
    assert result.exit_code == 130 and not (tmp_path / "out.npz").exists()
    assert "interrupted: progress is kept" in result.stderr and len(result.stderr.splitlines()) == 1
    assert any((tmp_path / "out.npz.parts").glob("*.jsonl"))
    assert run(clips, "-o", tmp_path / "out.npz", "--model", model).exit_code == 1
    assert content(tmp_path / "out.npz") == content(whole)


@pytest.mark.parametrize("limit", [4000, 100_000])
def test_a_full_disk_is_one_line_and_loses_nothing(model, clips, whole, tmp_path, monkeypatch, limit):
    """Full in the first part, and where the table is put together."""
    interrupted.small(monkeypatch.setattr)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        result = run(clips, "-o", tmp_path / "out.npz", "--model", model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("Error: cannot write ") and "the same command resumes the run" in result.stderr
    assert not (tmp_path / "out.npz").exists() and not list(tmp_path.glob(".out*"))
    assert run(clips, "-o", tmp_path / "out.npz", "--model", model).exit_code == 1
    assert content(tmp_path / "out.npz") == content(whole)


def test_two_processes_go_on_with_what_one_has_begun(model, clips, whole, tmp_path, monkeypatch):
    """And write the same dataset, whose parts are dealt out."""
    monkeypatch.setattr(interrupted.plan, "MOST_FILES", 64)
    out = tmp_path / "dataset"
    with monkeypatch.context() as patch:
        interrupted.small(patch.setattr)
        patch.setattr(interrupted.plan, "FEWEST_FILES", 64)
        patch.setattr(interrupted.plan, "MOST_FILES", 64)
        interrupted.Events(20, ctrl_c=True).watch_all(patch.setattr)
        assert run(clips, "-o", out, "--model", model).exit_code == 130
    begun = {file.name for file in (out / ".embed").glob("*.jsonl")}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "hear_mwmae.cli", "embed"]
    command += [str(clips), "-o", str(out), "--model", model]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 1 and "232 of 240 clips" in done.stdout, done.stderr
    assert done.stderr.count("not embedded: ") == 8
    assert begun == {"part-00000.jsonl"}
    assert sorted(file.name for file in out.iterdir()) == [".embed", *(f"part-{number:05d}.parquet" for number in range(4))]
    table, expected = read(out), read(whole)
    assert table["path"].tolist() == expected["path"].tolist()
    assert np.abs(table["embedding"] - expected["embedding"]).max() < 1e-5


def test_a_process_that_dies_leaves_no_other_waiting(model, clips, tmp_path):
    """The second finds other inputs than the first, and refuses."""
    code = "import os, sys; sys.argv[-1] += os.environ['RANK']; from hear_mwmae.cli import main; main(sys.argv[1:])"
    (tmp_path / "run.py").write_text(code)
    for rank in range(2):
        (tmp_path / f"inputs{rank}").symlink_to(clips)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(tmp_path / "run.py"), "embed"]
    command += ["--model", model, "-o", str(tmp_path / "out"), str(tmp_path / "inputs")]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 1 and "holds the parts of another run (inputs" in done.stderr


def test_what_is_in_the_way(model, clips, tmp_path):
    """Parts of another run, other files, a manifest that would be overwritten: one line, and
    nothing is touched.
    """
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").touch()
    assert "is not empty (it holds file)" in run(clips, "-o", tmp_path / "foreign", "--model", model).stderr
    (tmp_path / "list.csv").write_text(f"path\n{AUDIO / 'crow.wav'}\n")
    assert "it is one of the inputs" in run(tmp_path / "list.csv", "-o", tmp_path / "list.npy", "--model", model).stderr
    (tmp_path / "names.csv").write_text("a table of somebody's\n")
    assert "would share their .csv" in run(clips, "-o", tmp_path / "names.npy", "--model", model).stderr
    (tmp_path / "other.npy").touch()
    assert "would share their .csv" in run(clips, "-o", tmp_path / "other.csv", "--model", model).stderr
    dataset = tmp_path / "dataset"
    assert run(AUDIO, "-o", dataset, "--model", model).exit_code == 0
    before = content(dataset)
    for changes, differs in (
        (["--timestamps"], "timestamps none, not centred"),
        (["--dtype", "bfloat16"], "dtype float32, not bfloat16"),
        (["--pooling", "max"], "pooling mean, not max"),
        ([AUDIO / "crow.wav"], "inputs 5, "),
    ):
        result = run(AUDIO, *changes, "-o", dataset, "--model", model)
        assert result.exit_code == 1 and f"another run ({differs}" in result.stderr and result.stderr.count("\n") == 1
    assert "another model" in run(AUDIO, "-o", dataset).stderr
    assert run(AUDIO, "-o", dataset, "--model", model).exit_code == 0  # done already
    assert content(dataset) == before
    next(dataset.glob("*.parquet")).unlink()
    assert run(AUDIO, "-o", dataset, "--model", model).exit_code == 0
    assert content(dataset) == before


def test_a_damaged_log_is_refused(model, clips, tmp_path, monkeypatch):
    """Rows that the log counts, and that are not there, are not made up."""
    interrupted.small(monkeypatch.setattr)
    with monkeypatch.context() as patch:
        interrupted.Events(30, ctrl_c=True).watch_all(patch.setattr)
        run(clips, "-o", tmp_path / "out.npz", "--model", model)
    rows = tmp_path / "out.npz.parts" / "part-00000.rows"
    os.truncate(rows, 8)
    result = run(clips, "-o", tmp_path / "out.npz", "--model", model)
    assert result.exit_code == 1 and f"{rows} is shorter than" in result.stderr
