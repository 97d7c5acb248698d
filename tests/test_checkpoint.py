"""Weights from anywhere on disk: what loads, what is refused and how. The Hub has test_hub.py."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from reference import AUDIO, REFERENCE
from safetensors.torch import load_file, save_file

import hear_mwmae
from hear_mwmae.checkpoint import CONFIG_NAME, WEIGHTS_NAME, read_model, save_model
from hear_mwmae.config import preset
from hear_mwmae.hub import CARD_NAME, sha256_of
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.weights import DEFAULT_MODEL, WEIGHTS_DIR, registry

CLIP = torch.rand(1, 20000, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def model_dir(tmp_path, small_config) -> Path:
    torch.manual_seed(0)
    save_model(tmp_path / "model", small_config, MaskedAutoencoder(small_config).state_dict())
    return tmp_path / "model"


def embed(source: object) -> torch.Tensor:
    return hear_mwmae.get_scene_embeddings(CLIP, hear_mwmae.load_model(str(source)))


def rewrite(file: Path, change: object) -> None:
    """Apply ``change`` to the tensors of a safetensors file, keeping its metadata."""
    from safetensors import safe_open

    with safe_open(file, "pt") as stream:
        metadata = stream.metadata()
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata)


def test_directory_and_single_file_give_the_same(model_dir, tmp_path):
    alone = tmp_path / "elsewhere.safetensors"
    alone.write_bytes((model_dir / WEIGHTS_NAME).read_bytes())
    assert torch.equal(embed(model_dir), embed(alone))


def test_a_local_directory_may_look_like_a_hub_name(model_dir, monkeypatch):
    monkeypatch.chdir(model_dir.parent.parent)
    assert embed(f"{model_dir.parent.name}/model").shape == (1, 160)


def test_the_embedded_model():
    assert torch.equal(embed(""), embed(DEFAULT_MODEL))
    assert torch.equal(embed(""), embed(WEIGHTS_DIR / DEFAULT_MODEL))
    config, state = read_model("")
    assert config.encoder == preset("mwmae-tiny").encoder
    assert {name.split(".")[0] for name in state} == {"encoder", "decoder"}  # people continue pretraining
    model = MaskedAutoencoder.from_pretrained()
    assert sum(p.numel() for p in model.parameters()) == sum(v.numel() for v in state.values())


def test_the_embedded_model_was_trained(embedded_model):
    """It reconstructs masked real audio far better than an untrained one, and than the mean of the clip (error 1)."""
    from hear_mwmae.audio import read_audio
    from hear_mwmae.frontend import LogMelFrontend, normalise

    frontend = LogMelFrontend(embedded_model.config.frontend)
    clip = normalise(frontend.log_mel(read_audio(AUDIO / "glass.mp3", 16000)[None]), unbiased=False)[:, :200]
    noise = torch.rand(1, 250, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    with torch.no_grad():
        trained = MaskedAutoencoder.from_pretrained()(clip, noise).loss
        untrained = MaskedAutoencoder(embedded_model.config)(clip, noise).loss
    assert trained < 0.3 < 0.9 < untrained


def test_the_registry_describes_what_is_there():
    for name, entry in registry().items():
        assert entry.description and entry.licence
        if not entry.unavailable and not entry.repo:
            files = {CONFIG_NAME, WEIGHTS_NAME}
            assert {file: sha256_of(WEIGHTS_DIR / name / file) for file in files} == entry.sha256
            assert (WEIGHTS_DIR / name / CARD_NAME).is_file()


def test_a_changed_embedded_file_is_noticed(monkeypatch, model_dir):
    import dataclasses

    from hear_mwmae import checkpoint

    entry = dataclasses.replace(registry()[DEFAULT_MODEL], sha256={WEIGHTS_NAME: "0" * 64})
    monkeypatch.setattr(checkpoint, "registry", lambda: {DEFAULT_MODEL: entry})
    with pytest.raises(ValueError, match="not the registered mwmae-tiny: sha256"):
        hear_mwmae.load_model()


def test_official_weights_are_explained():
    with pytest.raises(ValueError, match=r"no licence.*hear-mwmae convert"):
        hear_mwmae.load_model("mwmae-base-official")


def test_only_the_encoder_is_read(model_dir, monkeypatch):
    read = []
    import hear_mwmae.checkpoint as checkpoint

    class Spy:
        def __init__(self, *args):
            self.manager = original(*args)

        def __enter__(self):
            self.file = self.manager.__enter__()
            return self

        def __exit__(self, *args):
            return self.manager.__exit__(*args)

        def get_tensor(self, name):
            read.append(name)
            return self.file.get_tensor(name)

        def __getattr__(self, name):
            return getattr(self.file, name)

    original = checkpoint.safe_open
    monkeypatch.setattr(checkpoint, "safe_open", Spy)
    embed(model_dir)
    assert read and all(name.startswith("encoder.") for name in read)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_load_as_float32(model_dir, tmp_path, dtype):
    config, state = read_model(model_dir)
    save_model(tmp_path / "half", config, state, dtype)
    model = hear_mwmae.load_model(str(tmp_path / "half"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.cosine_similarity(embed(tmp_path / "half"), embed(model_dir)) > 0.999
    assert (tmp_path / "half" / WEIGHTS_NAME).stat().st_size < 0.6 * (model_dir / WEIGHTS_NAME).stat().st_size


def test_position_tables_are_loaded_not_regenerated(model_dir):
    before = embed(model_dir)
    rewrite(model_dir / WEIGHTS_NAME, lambda tensors: tensors["encoder.pos_embed"].normal_())
    assert (embed(model_dir) - before).abs().max() > 1e-3


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
    with pytest.raises(ValueError, match="carries no configuration"):
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


@pytest.mark.parametrize("source", ["nowhere", "./nowhere/at/all", "missing/model.safetensors", "a b/c", "org/repo/file"])
def test_no_such_model(source):
    with pytest.raises(ValueError, match="neither a file or directory, nor one of the registered models"):
        hear_mwmae.load_model(source)


@pytest.mark.parametrize("source", ["~nobody-of-that-name/model", "x" * 300, "a/" * 2400])
def test_a_name_that_no_file_can_have(source):
    with pytest.raises(ValueError, match=r"no model|named by"):
        hear_mwmae.load_model(source)


@pytest.mark.parametrize("source", [None, 3, b"bytes", "x" * 5000, "nul\0"])
def test_what_is_no_name(source):
    with pytest.raises(ValueError, match="named by a string or a path"):
        hear_mwmae.load_model(source)


def test_a_failed_save_leaves_the_old_model(model_dir, small_config, monkeypatch):
    before = (model_dir / WEIGHTS_NAME).read_bytes()

    def fail(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("hear_mwmae.checkpoint.save_file", fail)
    with pytest.raises(OSError):
        save_model(model_dir, small_config, MaskedAutoencoder(small_config).state_dict())
    assert (model_dir / WEIGHTS_NAME).read_bytes() == before


def test_an_official_directory(tmp_path):
    source = REFERENCE / "official_checkpoint" / "checkpoint_198400"
    (tmp_path / "checkpoint").write_bytes(source.read_bytes())
    assert torch.equal(embed(tmp_path), embed(source))
