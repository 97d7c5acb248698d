"""The scripts of docs/integrations.md, run as people run them."""

import io
import runpy
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
import soundfile
import torch
from test_docs import SCRIPTS, blocks
from test_hear_api import tone

from hear_mwmae.audio import find_audio


def script(line: str) -> str:
    """The script of the page with this line."""
    (found,) = [block.text for block in blocks(SCRIPTS) if line in block.text]
    return found


@pytest.fixture
def sounds(tmp_path, monkeypatch) -> list[Path]:
    """The folder that the scripts read, in the working folder."""
    for kind, pitch in (("high", 2000), ("low", 200)):
        folder = tmp_path / "sounds" / kind
        folder.mkdir(parents=True)
        for number in range(3):
            audio = tone(9000 + 3000 * number, pitch + 10 * number).numpy()
            soundfile.write(folder / f"{number}.wav", audio, 16000)
    monkeypatch.chdir(tmp_path)
    return find_audio(["sounds"])


@pytest.fixture
def run(sounds):
    """Runs a script, and returns its variables."""

    def run(name: str) -> dict:
        Path("script.py").write_text(script(name))
        return runpy.run_path("script.py", run_name="__main__")

    return run


def assert_close(scenes: object, expected: torch.Tensor) -> None:
    assert (torch.as_tensor(scenes) - expected).abs().max() < 1e-4


def test_every_script_has_a_test():
    assert sum(block.language == "python" for block in blocks(SCRIPTS)) == 9


def test_skipped_clips(run):
    with pytest.warns(UserWarning, match=r"clip 1: sounds/missing\.wav: no such file"):
        assert run('errors="skip"')["scenes"].isnan().any(dim=1).tolist() == [False, True]


def test_scikit_learn(run, sounds):
    classifier = run("from sklearn")["classifier"]
    assert classifier.predict(sounds).tolist() == ["high"] * 3 + ["low"] * 3


@pytest.mark.parametrize("name", ["from torch.utils.data", "from joblib", "import datasets"])
def test_clips_by_other_libraries(run, sounds, embedded_model, name):
    found = run(name)
    scenes = found["sounds"]["embedding"][:] if name == "import datasets" else found["scenes"]
    assert_close(scenes, embedded_model.embed(sounds))


def test_ray(run, sounds, embedded_model, ray_cluster):
    assert_close(run("import ray")["scenes"], embedded_model.embed(sounds))


def test_stream(run, monkeypatch, capsys):
    audio = torch.cat([tone(40000, 300), tone(40000, 3000)]).numpy()
    stdin = SimpleNamespace(buffer=io.BytesIO(audio.tobytes()[:-3]))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert len(run("sys.stdin")["window"]) == 32000
    similar = [float(line) for line in capsys.readouterr().out.split()]
    # The pitch changes in the sixth block: the fifth value compares it with the one before.
    assert len(similar) == 9 and similar[4] < similar[3] - 0.03


def test_server(sounds, exported):
    """It imports neither torch nor the package."""
    model, file = exported
    Path("mwmae.onnx").write_bytes(file.read_bytes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    without = "import sys; sys.modules.update(torch=None, hear_mwmae=None)\n"
    Path("server.py").write_text(without + script("import onnxruntime").replace("8000", str(port)))
    Path("client.py").write_text(script("import urlopen").replace("8000", str(port)))
    server = subprocess.Popen([sys.executable, "server.py"], stderr=subprocess.DEVNULL)
    try:
        while server.poll() is None:
            with socket.socket() as connection:
                if not connection.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.05)
        scene = runpy.run_path("client.py")["scene"]
        assert_close([scene], model.embed("sounds/high/0.wav"))
        for name, samples in (("nan.wav", [np.nan] * 9), ("none.wav", [])):
            soundfile.write(name, np.array(samples, "f4"), 16000, subtype="FLOAT")
        for bad in (b"no audio", Path("nan.wav").read_bytes(), Path("none.wav").read_bytes()):
            with pytest.raises(HTTPError, match="400"):
                urlopen(f"http://127.0.0.1:{port}", bad)
    finally:
        server.kill()
        server.wait()
