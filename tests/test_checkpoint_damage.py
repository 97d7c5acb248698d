"""Models on disk that are refused: damaged, of another configuration, pickled."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_checkpoint import rewrite

import hear_mwmae
from hear_mwmae.checkpoint import CONFIG_NAME, WEIGHTS_NAME, read_model
from hear_mwmae.weights import DEFAULT_MODEL, registry


def test_a_changed_embedded_file_is_noticed(monkeypatch, model_dir):
    import dataclasses

    from hear_mwmae import checkpoint

    entry = dataclasses.replace(registry()[DEFAULT_MODEL], sha256={WEIGHTS_NAME: "0" * 64})
    monkeypatch.setattr(checkpoint, "registry", lambda: {DEFAULT_MODEL: entry})
    with pytest.raises(ValueError, match="not the registered mwmae-tiny: sha256"):
        hear_mwmae.load_model()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("encoder.norm.weight"), r"missing norm.weight \[32\]"),
        (lambda t: t.update({"encoder.extra": torch.zeros(3)}), r"unexpected extra \[3\]"),
        (lambda t: t.update({"encoder.norm.bias": torch.zeros(5)}), r"norm.bias is \[5\], should be \[32\]"),
        (lambda t: t["encoder.norm.bias"].fill_(torch.nan), "norm.bias holds NaN or infinity"),
        (lambda t: t.update({"encoder.norm.bias": torch.zeros(32, dtype=torch.int64)}), r"norm.bias is torch.int64"),
        (lambda t: t.update({"classifier.weight": torch.zeros(3)}), r"not an MW-MAE: it holds classifier.weight"),
        (lambda t: t.clear() or t.update({"decoder.x": torch.zeros(1)}), "missing.*\n.*and 19 more"),
    ],
)
def test_weights_that_do_not_match(model_dir, change, message):
    rewrite(model_dir / WEIGHTS_NAME, change)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        hear_mwmae.load_model(str(model_dir))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json: Expecting"),
        ("[]", "must be a JSON object"),
        ('{"encoder": {}}', "missing keys"),
        ("[" * 200_000, "config.json"),
    ],
)
def test_bad_config_is_named_before_the_weights(model_dir, text, message):
    (model_dir / CONFIG_NAME).write_text(text)
    (model_dir / WEIGHTS_NAME).write_bytes(b"not even looked at")
    with pytest.raises(ValueError, match=message):
        hear_mwmae.load_model(str(model_dir))


def test_unknown_key_in_config(model_dir):
    values = json.loads((model_dir / CONFIG_NAME).read_text())
    (model_dir / CONFIG_NAME).write_text(json.dumps({**values, "colour": "red"}))
    with pytest.raises(ValueError, match=r"config.json: config has unknown keys \['colour'\]"):
        hear_mwmae.load_model(str(model_dir))


@pytest.mark.parametrize(
    ("place", "value"),
    [(("encoder", "heads"), 4), (("patch_size",), [8, 8]), (("frontend", "f_max"), 7000.0)],
)
def test_a_config_of_another_model_of_the_same_shapes(model_dir, place, value):
    """Each of these fits the weights, and would give wrong numbers."""
    values = json.loads((model_dir / CONFIG_NAME).read_text())
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (model_dir / CONFIG_NAME).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=f"another configuration.*{place[-1]} is"):
        hear_mwmae.load_model(str(model_dir))


@pytest.mark.parametrize("missing", [CONFIG_NAME, WEIGHTS_NAME])
def test_directory_without_a_model(model_dir, missing):
    (model_dir / missing).unlink()
    with pytest.raises(ValueError, match=f"holds no model: {missing} missing"):
        hear_mwmae.load_model(str(model_dir))


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_truncated_safetensors(model_dir, keep):
    file = model_dir / WEIGHTS_NAME
    file.write_bytes(file.read_bytes()[:keep])
    for source in (model_dir, file):
        with pytest.raises(ValueError, match="damaged or truncated"):
            hear_mwmae.load_model(str(source))


def test_safetensors_without_config(model_dir, tmp_path):
    save_file(load_file(model_dir / WEIGHTS_NAME), tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="has no configuration in its metadata"):
        hear_mwmae.load_model(str(tmp_path / "bare.safetensors"))


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["model.pt", "checkpoint", "model.safetensors"])
@pytest.mark.parametrize("writer", ["pickle", "torch", "torch-legacy"])
def test_a_pickle_is_never_opened(tmp_path, name, writer):
    sprung = tmp_path / "sprung"
    file = tmp_path / name
    if writer == "pickle":
        file.write_bytes(pickle.dumps(Trap(sprung)))
    else:
        torch.save({"params": Trap(sprung)}, file, _use_new_zipfile_serialization=writer == "torch")
    for source in (file, tmp_path):
        with pytest.raises(ValueError):
            hear_mwmae.load_model(str(source))
    assert not sprung.exists()
    with pytest.raises(ValueError, match=r"pickled files.*never opened|damaged"):
        hear_mwmae.load_model(str(file))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_flipped_bits_are_noticed(model_dir, part):
    """Wherever they are: most of them change a weight a little, and would load in silence."""
    file = model_dir / WEIGHTS_NAME
    content, names = file.read_bytes(), load_file(file)
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    places = torch.Generator().manual_seed(0)
    for name in sorted(name for name in names if name.startswith(part)):
        first, last = header[name]["data_offsets"]
        place, bit = (int(torch.randint(*span, (1,), generator=places)) for span in ((first, last), (0, 8)))
        flipped = bytearray(content)
        flipped[start + place] ^= 1 << bit
        file.write_bytes(flipped)
        with pytest.raises(ValueError, match=f"{part} is not what was saved"):
            read_model(model_dir)
        if part == "encoder":
            with pytest.raises(ValueError, match="encoder is not what was saved"):
                hear_mwmae.load_model(str(model_dir))
    if part == "decoder":
        hear_mwmae.load_model(str(model_dir))  # reads the encoder only


def test_a_changed_configuration_in_the_metadata_is_noticed(model_dir):
    """Of a file by itself, which no config.json contradicts."""
    file = model_dir / WEIGHTS_NAME
    content = file.read_bytes()
    assert content.count(b'f_max\\": 8000.0') == 1
    file.write_bytes(content.replace(b'f_max\\": 8000.0', b'f_max\\": 7000.0'))
    with pytest.raises(ValueError, match="is not what was saved"):
        hear_mwmae.load_model(str(file))


def test_configs_from_anywhere_take_no_memory(model_dir, tmp_path):
    """In a process of their own, whose peak is compared with what loading the true model takes."""
    code = (
        "import json, resource, sys, hear_mwmae\n"
        "for source in sys.argv[1:]:\n"
        "    said = ''\n"
        "    try: hear_mwmae.load_model(source)\n"
        "    except hear_mwmae.HearMwmaeError as error: said = str(error)\n"
        "    print(json.dumps([said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))\n"
    )
    changes = [
        ("encoder", "depth", 1_000_000, "depth must be a whole number from 1 to 256"),
        ("encoder", "depth", 250, "do not match its configuration"),
        ("encoder", "width", 8192, "do not match its configuration"),
        ("frontend", "n_mels", 1_000_000, "n_mels must be a whole number from 1 to 1024"),
        ("frontend", "win_lengths", [1_000_000], "win_lengths must be a whole number from 0 to 65536"),
    ]
    sources = [model_dir]
    for number, (part, name, value, _) in enumerate(changes):
        bad = Path(shutil.copytree(model_dir, tmp_path / f"bad{number}"))
        values = json.loads((bad / CONFIG_NAME).read_text())
        values[part][name] = value
        (bad / CONFIG_NAME).write_text(json.dumps(values))
        save_file(load_file(bad / WEIGHTS_NAME), bad / WEIGHTS_NAME)  # without a configuration that contradicts
        sources.append(bad)
    done = subprocess.run([sys.executable, "-c", code, *sources], capture_output=True, text=True, check=True)
    (nothing, before), *outcomes = map(json.loads, done.stdout.splitlines())
    assert nothing == ""
    for (_, _, _, message), (said, peak) in zip(changes, outcomes, strict=True):
        assert message in said and peak - before < 100
