"""Models on disk that are refused: damaged, of another configuration, pickled."""

import dataclasses
import json
import os
import pickle
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_weights import rewrite

import hear_mwmae
from hear_mwmae import HearMwmaeError, weights
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.weights import CONFIG_NAME, DEFAULT_MODEL, WEIGHTS_NAME, registry


def refusal(source: object) -> str:
    """The line in which loading the encoder, or all of the model, ends."""
    for load in (MaskedAutoencoder.from_pretrained, hear_mwmae.load_model):
        with pytest.raises(HearMwmaeError) as caught:
            load(str(source))
        assert "\n" not in str(caught.value)
    return str(caught.value)


def change_config(folder: Path, part: str, **values: object) -> None:
    """Set keys of one part of the config.json in ``folder``."""
    config = json.loads((folder / CONFIG_NAME).read_text())
    config[part] |= values
    (folder / CONFIG_NAME).write_text(json.dumps(config))


def test_a_changed_embedded_file_is_noticed(monkeypatch):
    entry = dataclasses.replace(registry()[DEFAULT_MODEL], sha256="0" * 64)
    monkeypatch.setattr(weights, "registry", lambda: {DEFAULT_MODEL: entry})
    assert f"is damaged: its sha256 is {registry()[DEFAULT_MODEL].sha256}" in refusal("")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("encoder.norm.weight"),
            'configuration: Missing key(s) in state_dict: "encoder.norm',
        ),
        (
            lambda t: t.update({"encoder.norm.bias": torch.zeros(5)}),
            "mismatch for encoder.norm.bias",
        ),
        (lambda t: t["encoder.norm.bias"].fill_(torch.nan), "norm.bias does not hold finite"),
        (lambda t: t.update({"encoder.norm.bias": torch.zeros(32).int()}), "does not hold finite"),
    ],
)
def test_weights_that_do_not_match(model_dir, change, message):
    rewrite(model_dir / WEIGHTS_NAME, change)
    assert message in refusal(model_dir)


def test_bad_config_is_named_before_the_weights(model_dir):
    (model_dir / WEIGHTS_NAME).write_bytes(b"not even looked at")
    (model_dir / CONFIG_NAME).write_text("{")
    assert "config.json is not JSON: Expecting" in refusal(model_dir)
    (model_dir / CONFIG_NAME).write_text('{"encoder": {}}')
    assert "config.json: encoder.width: Field required" in refusal(model_dir)


@pytest.mark.parametrize(
    ("part", "value"), [("encoder", {"heads": 4}), ("frontend", {"f_max": 7000.0})]
)
def test_a_config_of_another_model_of_the_same_shapes(model_dir, part, value):
    """Each of these fits the weights, and would give wrong numbers."""
    change_config(model_dir, part, **value)
    assert f"{next(iter(value))} is" in refusal(model_dir)


def test_directory_without_a_model(model_dir):
    (model_dir / CONFIG_NAME).unlink()
    assert "config.json: No such file" in refusal(model_dir)
    (model_dir / WEIGHTS_NAME).unlink()
    assert "a folder with config.json and model.safetensors" in refusal(model_dir)


def test_safetensors_without_config(model_dir, tmp_path):
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(model_dir / WEIGHTS_NAME), bare)
    assert "has no configuration in its metadata" in refusal(bare)
    bare.replace(model_dir / WEIGHTS_NAME)  # of config.json's hash
    assert "is damaged" in refusal(model_dir)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("name", "writer"),
    [("model.pt", "torch"), ("checkpoint", "pickle"), ("model.safetensors", "torch-legacy")],
)
def test_a_pickle_is_never_opened(tmp_path, name, writer):
    sprung = tmp_path / "sprung"
    file = tmp_path / name
    if writer == "pickle":
        file.write_bytes(pickle.dumps(Trap(sprung)))
    else:
        zipped = writer == "torch"
        torch.save({"params": Trap(sprung)}, file, _use_new_zipfile_serialization=zipped)
    for source in (file, tmp_path):
        refusal(source)
    assert not sprung.exists()


def test_a_config_from_anywhere_takes_no_memory(model_dir):
    rewrite(model_dir / WEIGHTS_NAME, lambda tensors: None, metadata=False)
    change_config(model_dir, "encoder", width=8192)  # 6 GB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "do not match its configuration" in refusal(model_dir)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # kB
