"""What is installed: the wheel carries the embedded model, and both kinds of install find it."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import hear_mwmae
from hear_mwmae.weights import WEIGHTS_DIR

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("build", reason="needs the dev extra")
    folder = tmp_path_factory.mktemp("wheel")
    # Built from a copy: setuptools leaves its build folder beside the sources.
    tree = folder / "tree"
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in files.stdout.splitlines():
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_carries_model_recipes_and_lists(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("config.json", "model.safetensors", "README.md", "card.json", "loss.png"):
        assert f"hear_mwmae/weights/mwmae-tiny/{name}" in names
    assert {"hear_mwmae/weights/registry.json", "hear_mwmae/training/recipes/mwmae-tiny-cpu.toml"} <= set(names)
    assert "hear_mwmae/training/debian_packages.csv" in names
    assert not [
        name for name in names if name.split("/")[0] not in ("hear_mwmae", f"hear_mwmae-{hear_mwmae.__version__}.dist-info")
    ]
    assert wheel.stat().st_size < 30e6


def test_an_unpacked_wheel_embeds_without_anything_else(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import hear_mwmae, json, torch;"
        "m = hear_mwmae.load_model();"
        "print(json.dumps([hear_mwmae.__file__, hear_mwmae.get_scene_embeddings(torch.rand(1, 8000), m).shape[1]]))"
    )
    # HF_HUB_OFFLINE: nothing may be asked of the network.
    environment = {"PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    file, size = json.loads(done.stdout)
    assert Path(file).is_relative_to(tmp_path) and size == 960


def test_this_install_finds_the_weights():
    assert (WEIGHTS_DIR / "mwmae-tiny" / "model.safetensors").is_file()
    assert metadata.version("hear-mwmae") == hear_mwmae.__version__
