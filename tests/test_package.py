"""What is installed: wheel and source distribution, what they need and what they do without, and an
uninstalled checkout.
"""

from __future__ import annotations

import email
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from reference import AUDIO, REFERENCE

import hear_mwmae
from hear_mwmae.weights import WEIGHTS_DIR

ROOT = Path(__file__).resolve().parents[1]
OFFICIAL = REFERENCE / "official_checkpoint" / "checkpoint_198400"


def tracked() -> list[str]:
    """Names of the files of this checkout; of an unpacked source distribution, which has no
    history, all files.
    """
    if not (ROOT / ".git").exists():
        return [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    pytest.importorskip("build", reason="needs the dev extra")
    folder = tmp_path_factory.mktemp("built")
    # Built from a copy: setuptools leaves its build folder beside the sources.
    tree = folder / "tree"
    for name in tracked():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


def run_python(code: str, folder: Path, *args: object) -> subprocess.CompletedProcess:
    """``code`` in a process of its own that finds modules in ``folder`` first."""
    command = [sys.executable, "-c", code, *map(str, args)]
    environment = {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "PATH": ""}  # nothing may be asked of the network
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


def test_the_wheel_carries_model_recipes_and_lists(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("config.json", "model.safetensors", "README.md", "card.json", "loss.png"):
        assert f"hear_mwmae/weights/mwmae-tiny/{name}" in names
    assert {"hear_mwmae/weights/registry.json", "hear_mwmae/training/recipes/mwmae-tiny-cpu.toml"} <= set(names)
    assert {name for name in tracked() if name.startswith("hear_mwmae/") and name.endswith(".py")} <= set(names)
    assert {"hear_mwmae/training/recipes/mwmae-tiny-cpu.toml", "hear_mwmae/py.typed"} <= set(names)
    assert not [
        name for name in names if name.split("/")[0] not in ("hear_mwmae", f"hear_mwmae-{hear_mwmae.__version__}.dist-info")
    ]
    assert len(list((ROOT / "weights").glob("*/config.json"))) > 1  # a checkout has more than the embedded model
    assert {name.split("/")[2] for name in names if re.match("hear_mwmae/weights/.+/", name)} == {"mwmae-tiny"}
    assert wheel.stat().st_size < 30e6


def test_an_unpacked_wheel_embeds_without_anything_else(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import hear_mwmae, json, torch;"
        "m = hear_mwmae.load_model();"
        "print(json.dumps([hear_mwmae.__file__, hear_mwmae.get_scene_embeddings(torch.rand(1, 8000), m).shape[1]]))"
    )
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    file, size = json.loads(done.stdout)
    assert Path(file).is_relative_to(tmp_path) and size == 2880


def test_this_install_finds_the_weights():
    assert (WEIGHTS_DIR / "mwmae-tiny" / "model.safetensors").is_file()
    assert metadata.version("hear-mwmae") == hear_mwmae.__version__


def test_what_a_package_index_shows(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        about = email.message_from_bytes(archive.read(name))
    text = about.get_payload()
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links and all(link.startswith(("https://", "http://", "#")) for link in links)  # relative ones lead nowhere there
    assert "docs/data.md" in text and about["Author"]
    assert all(url.split(", ")[1].startswith("https://") for url in about.get_all("Project-URL"))
    versions = {line.rpartition(" :: ")[2] for line in about.get_all("Classifier") if line.startswith("Programming Language")}
    assert {"3.10", "3.11", "3.12", "3.13"} <= versions and about["Requires-Python"] == ">=3.10"
    needed = [line for line in about.get_all("Requires-Dist") if "extra ==" not in line]
    assert not [line for line in needed if re.match("torchaudio|scipy|msgpack|ray", line)]
    assert "torch>=2.9" in needed  # and any later one


def test_the_source_distribution_is_the_checkout(built):
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not {name for name in tracked() if not name.startswith(".")} - names
    assert {"tests/data/audio/crow.wav", "CHANGELOG.md", "CITATION.cff", "docs/design.md", "research/benchmarks/embed.py"} <= names
    assert not [name for name in names if "__pycache__" in name]


UNINSTALLED = """
import sys
# Of an editable install, which would find hear_mwmae.weights, nothing is left.
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in f"{finder!r} {getattr(finder, '__module__', '')}"]
import hear_mwmae, hear_mwmae.weights, torch
assert hear_mwmae.get_scene_embeddings(torch.rand(1, 8000), hear_mwmae.load_model()).shape == (1, int(sys.argv[1]))
print(hear_mwmae.__file__, hear_mwmae.weights.__file__, sep="\\n")
"""


def test_a_checkout_that_is_not_installed(tmp_path, embedded_model):
    for name in ("hear_mwmae", "weights"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    done = run_python(UNINSTALLED, tmp_path, embedded_model.scene_embedding_size)
    assert done.returncode == 0, done.stderr
    assert [Path(line).is_relative_to(tmp_path) for line in done.stdout.splitlines()] == [True, True]


@pytest.mark.parametrize("missing", [("torchaudio",), ("scipy", "msgpack", "pyarrow", "sklearn")])
def test_embedding_does_without(missing):
    """Whatever only training, tests or extras need. torchaudio that was built for another torch
    cannot even be imported.
    """
    code = f"import sys; sys.modules |= dict.fromkeys({missing}); from hear_mwmae.cli import main; main(['embed', sys.argv[1]])"
    done = run_python(code, ROOT, AUDIO / "piano.flac")
    assert done.returncode == 0, done.stderr
    assert " float32, mean " in done.stdout


def test_what_is_missing_is_named_with_what_installs_it(tmp_path):
    code = "import sys; sys.modules[sys.argv[1]] = None; from hear_mwmae.cli import main; main(sys.argv[2:])"
    calls = {
        "msgpack": ("convert", OFFICIAL, tmp_path / "out", "'.[official]'"),
        "ray": ("embed", AUDIO / "crow.wav", "-o", tmp_path / "out.npz", "--ray", "'.[ray]'"),
        "webdataset": ("pack", AUDIO, tmp_path / "pack", "'.[train]'"),
    }
    for missing, (*args, hint) in calls.items():
        done = run_python(code, ROOT, missing, *args)
        (line,) = done.stderr.strip().splitlines()
        assert done.returncode == 1 and f"needs {missing}: pip install {hint}" in line


def test_nothing_names_what_is_published_nowhere():
    """Until the package is on an index and its model on the Hub, installing it by name would
    install a stranger's.
    """
    for name in tracked():
        if name.startswith(("hear_mwmae/", "weights/", "docs/", "README.md", "eval/")) and name.endswith((".py", ".md", ".json")):
            text = (ROOT / name).read_text()
            assert not re.search(r"pip install '?hear[-_]mwmae|hear-mwmae\[|load_model\(\"hear-mwmae/", text), name
