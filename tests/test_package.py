"""What is installed: the wheel, what it needs and does without, and an uninstalled checkout."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from reference import AUDIO, REFERENCE

import hear_mwmae
from hear_mwmae.cli import main
from hear_mwmae.weights import registry

ROOT = Path(__file__).resolve().parents[1]
OFFICIAL = REFERENCE / "official_checkpoint" / "checkpoint_198400"


def tracked() -> list[str]:
    """Names of the files of this checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs git's list of the files")
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel, built from the source distribution."""
    pytest.importorskip("build", reason="make dev installs it")
    folder = tmp_path_factory.mktemp("built")
    # Built from a copy: setuptools leaves its build folder beside the sources.
    tree = folder / "tree"
    for name in tracked():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel)


def test_the_wheel_carries_model_recipes_and_lists(wheel):
    names = wheel.namelist()
    for name in registry():
        if (ROOT / "weights" / name).is_dir():
            for file in ("config.json", "model.safetensors", "README.md", "audio.csv"):
                assert f"hear_mwmae/models/{name}/{file}" in names
    code = [name for name in tracked() if re.fullmatch(r"hear_mwmae/.*", name)]
    assert {"hear_mwmae/models/registry.json", *code} <= set(names)
    about = f"hear_mwmae-{hear_mwmae.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"hear_mwmae", about}


def test_the_wheel_embeds_without_what_extras_install(wheel, tmp_path):
    """Unpacked, in a process that finds nothing by an editable install."""
    wheel.extractall(tmp_path)
    code = (
        "import sys; sys.meta_path = [finder for finder in sys.meta_path "
        "if 'editable' not in f\"{finder!r} {getattr(finder, '__module__', '')}\"];"
        "missing = ('torchaudio', 'scipy', 'msgpack', 'pyarrow', 'sklearn', 'hear_mwmae.training');"
        "sys.modules |= dict.fromkeys(missing);"
        "import hear_mwmae, json;"
        "scene = hear_mwmae.load_model().embed(sys.argv[1]);"
        "print(json.dumps([hear_mwmae.__file__, scene.shape[1]]))"
    )
    command = [sys.executable, "-c", code, str(AUDIO / "piano.flac")]
    # Nothing may be asked of the network.
    environment = {"PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    file, size = json.loads(done.stdout)
    assert Path(file).is_relative_to(tmp_path) and size == 3840


def test_what_is_missing_is_named_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "msgpack", None)
    done = CliRunner().invoke(main, ["convert", str(OFFICIAL), str(tmp_path / "out")])
    (line,) = done.stderr.splitlines()
    assert done.exit_code == 1 and "needs msgpack: pip install '.[official]'" in line
