"""`hear-mwmae embed --ray`: two processes, of which one is killed."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from embed_command import read, run

from hear_mwmae.embedding import run as runs

psutil = pytest.importorskip("psutil")


def test_a_worker_that_is_killed_costs_nothing(ray_cluster, saved_model, tmp_path, monkeypatch):
    folder = tmp_path / "clips"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(64):
        audio = random.uniform(-0.5, 0.5, 40_000)
        soundfile.write(folder / f"{number:02d}.wav", audio, 16000)
    (folder / "bad.wav").write_bytes(b"no audio")
    monkeypatch.setattr(runs, "GROUP_FILES", 2)
    options = "--model", saved_model
    assert run(folder, "-o", tmp_path / "alone.npz", *options).exit_code == 1
    killed: list[int] = []

    def kill_one() -> None:
        while not list(Path(tmp_path / "out.npz.parts").glob("part-*")):
            time.sleep(0.01)
        for process in psutil.Process().children(recursive=True):
            if "ray::Worker" in " ".join(process.cmdline()) and not killed:
                process.kill()
                killed.append(process.pid)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    result = run(folder, "-o", tmp_path / "out.npz", *options, "--ray")
    killer.join(10)
    assert result.exit_code == 1 and "64 of 65 clips" in result.stdout, result.output
    assert killed and len(result.stderr.splitlines()) == 1 and "bad.wav" in result.stderr
    table, expected = read(tmp_path / "out.npz"), read(tmp_path / "alone.npz")
    assert table["path"].tolist() == expected["path"].tolist()
    assert np.array_equal(table["embedding"], expected["embedding"])
