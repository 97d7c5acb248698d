"""The examples, run as scripts."""

import io
import json
import re
import runpy
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import pytest
from hear_tasks import make_task
from reference import AUDIO
from safetensors import safe_open

from hear_mwmae import load_model

ROOT = Path(__file__).resolve().parents[1]


def run(name: str, *args: object) -> str:
    output = io.StringIO()
    arguments = [name, *map(str, args)]
    with redirect_stdout(output), mock.patch.object(sys, "argv", arguments):
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    return output.getvalue()


@pytest.fixture(scope="module")
def tones(tmp_path_factory) -> Path:
    """A HEAR task of high and low tones, and the same clips in a folder for each class."""
    folder = tmp_path_factory.mktemp("examples")
    task = make_task(folder / "tones", "multiclass", 0.3)
    for split in sorted(task.glob("fold*.json")):
        labels = dict(list(json.loads(split.read_text()).items())[:4])
        split.write_text(json.dumps(labels))
        for name, (kind,) in labels.items():
            (folder / "classes" / kind).mkdir(parents=True, exist_ok=True)
            file = task / "16000" / split.stem / name
            shutil.copy(file, folder / "classes" / kind / f"{kind}-{name}")
    return folder


def test_similarity_search(tones):
    lines = run("similarity_search.py", AUDIO, "-k", 2).splitlines()
    assert [line.split(":")[0] for line in lines] == sorted(path.name for path in AUDIO.iterdir())
    for line in lines:
        assert re.fullmatch(r"(\S+): (?!\1)\S+ -?[01]\.\d\d, (?!\1)\S+ -?[01]\.\d\d", line), line
    sound = next((tones / "classes" / "high").iterdir())
    (line,) = run("similarity_search.py", tones / "classes", sound, "-k", 6).splitlines()
    # Itself, and five alike.
    assert line.startswith(f"{sound.name}: {sound.name} 1.00, ") and line.count("high-") == 7


def test_classifier(tones):
    clips = AUDIO / "crow.wav", next((tones / "classes" / "low").iterdir())
    accuracy, crow, low = run("classifier.py", tones / "classes", *clips).splitlines()
    assert float(re.fullmatch(r"accuracy, cross-validated: (.+)%", accuracy)[1]) > 90
    assert crow.split(": ")[1] in ("high", "low") and low.endswith(": low")


def test_finetune(tones, tmp_path):
    words = [tones / "tones", "--epochs", 1, "-o", tmp_path / "tuned"]
    linear, epoch = run("finetune.py", *words).splitlines()
    assert linear.startswith("linear layer: ") and epoch.startswith("epoch 1: loss ")
    assert float(epoch.split(", ")[1].rstrip("%")) > 90
    before, tuned = (load_model(name).encoder.state_dict() for name in ("", tmp_path / "tuned"))
    moved = [not value.equal(tuned[name]) for name, value in before.items()]
    assert all(moved)  # what has no gradient stays where it was
    with safe_open(tmp_path / "tuned" / "head.safetensors", "pt") as head:
        assert json.loads(head.metadata()["classes"]) == ["high", "low"]
        assert head.get_tensor("1.weight").shape == (2, load_model().scene_embedding_size)
