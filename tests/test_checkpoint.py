"""Weights from anywhere on disk, by name, folder and file.

Damaged ones have test_checkpoint_damage.py, the Hub test_hub.py.
"""

from __future__ import annotations

import shutil
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


def embed(source: object) -> torch.Tensor:
    return hear_mwmae.get_scene_embeddings(CLIP, hear_mwmae.load_model(str(source)))


def rewrite(file: Path, change: object) -> None:
    """Apply ``change`` to the tensors of a safetensors file, keeping its metadata without the
    hashes.
    """
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
    """It reconstructs masked real audio far better than an untrained one, and than the mean of the
    clip (error 1).
    """
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


@pytest.mark.parametrize("name", sorted(path.parent.name for path in WEIGHTS_DIR.glob("*/config.json")))
def test_a_model_of_weights_loads_and_has_the_card_that_card_json_gives(name):
    folder = WEIGHTS_DIR / name
    assert hear_mwmae.load_model(str(folder)).config == read_model(folder)[0]
    card = (folder / CARD_NAME).read_text()
    assert card == model_card(folder, name if name in registry() else f"weights/{name}")
    # Rows of tables and the paper's title cannot be wrapped.
    assert not [line for line in card.splitlines() if len(line) > 100 and not line.startswith(("|", "  title"))]


def test_available_models():
    names = hear_mwmae.available_models()
    assert names[0] == DEFAULT_MODEL and "mwmae-base-official" not in names
    for name in names:
        hear_mwmae.load_model(name)
