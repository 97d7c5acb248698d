"""Weights from anywhere on disk: what loads, what is refused and how. The Hub has test_hub.py."""

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
from hub_server import use_hub
from reference import AUDIO, REFERENCE
from safetensors.torch import load_file, save_file

import hear_mwmae
from hear_mwmae.card import model_card
from hear_mwmae.checkpoint import CONFIG_NAME, WEIGHTS_NAME, read_model, save_model
from hear_mwmae.config import DecoderConfig, EncoderConfig, ModelConfig, preset
from hear_mwmae.hub import CARD_NAME, sha256_of
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.official import state_shapes
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
    """Apply ``change`` to the tensors of a safetensors file, keeping its metadata without the hashes."""
    from safetensors import safe_open

    with safe_open(file, "pt") as stream:
        metadata = {key: value for key, value in stream.metadata().items() if not key.startswith("sha256")}
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


def test_files_without_a_hash_load(model_dir):
    rewrite(model_dir / WEIGHTS_NAME, lambda tensors: None)
    assert embed(model_dir).shape == (1, 160)


def test_the_same_model_gives_the_same_bytes(tmp_path, small_config):
    state = MaskedAutoencoder(small_config).state_dict()
    for number in range(8):  # the order was one of chance
        save_model(tmp_path / str(number), small_config, state)
    assert len({(tmp_path / str(number) / WEIGHTS_NAME).read_bytes() for number in range(8)}) == 1


@pytest.mark.parametrize(
    "config",
    [
        preset("mwmae-tiny"),
        preset("mae-tiny", (5, 5)),
        ModelConfig(EncoderConfig(32, 2, 2, 2.5, window_sizes=(2, 0)), DecoderConfig(48, 1, 3, window_sizes=(50, 0, 2))),
    ],
)
def test_shapes_are_known_without_a_model(config):
    state = MaskedAutoencoder(config).state_dict()
    assert state_shapes(config) == {name: tuple(value.shape) for name, value in state.items()}


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("encoder", "depth"), 1_000_000, "depth must be a whole number from 1 to 256"),
        (("encoder", "depth"), 250, "do not match its configuration"),
        (("encoder", "width"), 8192, "do not match its configuration"),
        (("frontend", "n_mels"), 1_000_000, "n_mels must be a whole number from 1 to 1024"),
        (("frontend", "n_fft"), 1_000_000, "n_fft must be a whole number from 1 to 65536"),
    ],
)
def test_a_config_from_anywhere_takes_no_memory(model_dir, place, value, message):
    """In a process of its own, whose peak is compared with what loading the true model takes."""
    code = (
        "import resource, sys, hear_mwmae\n"
        "def load(source):\n"
        "    try: hear_mwmae.load_model(source)\n"
        "    except hear_mwmae.HearMwmaeError as error: print(error)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = load(sys.argv[1]); print((load(sys.argv[2]) - before) / 1024)\n"
    )
    bad = Path(shutil.copytree(model_dir, model_dir.parent / "bad"))
    values = json.loads((bad / CONFIG_NAME).read_text())
    values[place[0]][place[1]] = value
    (bad / CONFIG_NAME).write_text(json.dumps(values))
    save_file(load_file(bad / WEIGHTS_NAME), bad / WEIGHTS_NAME)  # without a configuration that contradicts
    done = subprocess.run([sys.executable, "-c", code, model_dir, bad], capture_output=True, text=True, check=True)
    *said, megabytes = done.stdout.splitlines()
    assert message in "".join(said) and float(megabytes) < 100


def test_near_misses(model_dir, monkeypatch):
    with pytest.raises(ValueError, match=r"; did you mean 'mwmae-tiny'\?"):
        hear_mwmae.load_model("mwmae_tiny")
    monkeypatch.chdir(model_dir.parent)
    with pytest.raises(ValueError, match=r"; did you mean 'model'\?"):
        hear_mwmae.load_model("modle")
    with pytest.raises(ValueError, match=r"; did you mean 'mae-small'\?"):
        preset("mae_small")


def test_a_local_folder_of_a_registered_name(model_dir, monkeypatch):
    """Is not what is loaded, and the warning says how it is."""
    model_dir.rename(model_dir.parent / DEFAULT_MODEL)
    monkeypatch.chdir(model_dir.parent)
    with pytest.warns(UserWarning, match="is the registered model; './mwmae-tiny' loads the local path"):
        assert hear_mwmae.load_model(DEFAULT_MODEL).scene_embedding_size == 2880
    assert hear_mwmae.load_model(f"./{DEFAULT_MODEL}").scene_embedding_size == 160


def test_a_name_that_begins_with_a_dot_is_no_hub_repository(model_dir, monkeypatch):
    monkeypatch.chdir(model_dir.parent)
    with pytest.raises(ValueError, match=r"no model './modle'.*; did you mean 'model'\?"):
        hear_mwmae.load_model("./modle")
    monkeypatch.chdir(model_dir.parent.parent)
    use_hub(monkeypatch, "http://127.0.0.1:9", model_dir.parent)  # the name could be one of the Hub, where nothing answers
    with pytest.raises(ValueError, match=r"; did you mean '.*/model'\?"):
        hear_mwmae.load_model(f"{model_dir.parent.name}/modle")


def test_the_embedded_model_is_the_same_by_name_folder_and_file(tmp_path):
    folder = WEIGHTS_DIR / DEFAULT_MODEL
    by_name, by_folder, by_file = (read_model(source) for source in ("", folder, folder / WEIGHTS_NAME))
    assert by_name[0] == by_folder[0] == by_file[0]
    damaged = shutil.copytree(folder, tmp_path / "damaged") / WEIGHTS_NAME
    content = bytearray(damaged.read_bytes())
    content[-1000] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        MaskedAutoencoder.from_pretrained(str(damaged.parent))


def test_the_embedded_models_card_is_what_card_json_gives():
    folder = WEIGHTS_DIR / DEFAULT_MODEL
    assert (folder / "README.md").read_text() == model_card(folder, DEFAULT_MODEL)


def test_available_models():
    names = hear_mwmae.available_models()
    assert names[0] == DEFAULT_MODEL and "mwmae-base-official" not in names
    for name in names:
        hear_mwmae.load_model(name)
