"""Models by name, folder and file, how they are written, and what a process is like that loads one.

Damaged ones have test_weights_damage.py, the Hub test_hub.py.
"""

import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from reference import AUDIO
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_hear_api import noise

import hear_mwmae
from hear_mwmae import Embedder, HearMwmaeError, hub
from hear_mwmae.config import preset
from hear_mwmae.hub import CARD_NAME
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.weights import (
    CONFIG_NAME,
    DEFAULT_MODEL,
    WEIGHTS_DIR,
    WEIGHTS_NAME,
    read_model,
    registry,
    sha256_of,
)

CLIP = noise(20000)[None]


def embed(source: object) -> torch.Tensor:
    return hear_mwmae.get_scene_embeddings(CLIP, hear_mwmae.load_model(str(source)))


def rewrite(file: Path, change: object, metadata: bool = True) -> None:
    """Apply ``change`` to the tensors of a weights file, whose hash is then unknown."""
    with safe_open(file, "pt") as stream:
        kept = stream.metadata() if metadata else None
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, kept)
    config = file.with_name(CONFIG_NAME)
    values = json.loads(config.read_text())
    values.pop("sha256", None)
    config.write_text(json.dumps(values))


@pytest.fixture
def nothing_is_fetched(monkeypatch):
    """A call that would ask the Hub fails the test."""
    monkeypatch.setattr(hub, "fetch", lambda *args, **options: pytest.fail(f"asks for {args}"))


def test_the_embedded_model(embedded_model, tmp_path):
    folder = WEIGHTS_DIR / DEFAULT_MODEL
    alone = shutil.copy(folder / WEIGHTS_NAME, tmp_path / "elsewhere.safetensors")
    for source in (DEFAULT_MODEL, folder, alone):
        assert torch.equal(embed(source), embedded_model(CLIP))
    by_keyword = hear_mwmae.load_model(model_file_path=str(folder))  # HEAR's own
    assert torch.equal(by_keyword(CLIP), embedded_model(CLIP))
    config, state = read_model("")
    assert config.encoder == dataclasses.replace(preset("mwmae-tiny").encoder, width=256, heads=4)
    assert {name.split(".")[0] for name in state} == {"encoder", "decoder"}  # to be trained further


def test_the_embedded_model_was_trained(embedded_model):
    """It reconstructs masked real audio far better than an untrained one, and than the mean of the
    clip (error 1).
    """
    from hear_mwmae.audio import read_audio
    from hear_mwmae.frontend import LogMelFrontend

    frontend = LogMelFrontend(embedded_model.config.frontend)
    clip = frontend(read_audio(AUDIO / "glass.mp3", 16000)[None], unbiased=False)[:, :200]
    noise = torch.rand(1, 250, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    with torch.no_grad():
        trained = MaskedAutoencoder.from_pretrained()(clip, noise).loss
        untrained = MaskedAutoencoder(embedded_model.config)(clip, noise).loss
    assert trained < 0.3 < 0.9 < untrained


def test_the_registry_describes_what_is_there():
    names = hear_mwmae.available_models()
    assert names[0] == DEFAULT_MODEL and "mwmae-base-official" not in names
    for name, entry in registry().items():
        assert entry.description and entry.license
        if name in names:
            assert sha256_of(WEIGHTS_DIR / name / WEIGHTS_NAME) == entry.sha256
            values = json.loads((WEIGHTS_DIR / name / CONFIG_NAME).read_text())
            assert values["sha256"] == entry.sha256
            assert (WEIGHTS_DIR / name / CARD_NAME).is_file()


def test_official_weights_are_explained():
    with pytest.raises(HearMwmaeError, match=r"no licence.*hear-mwmae convert"):
        hear_mwmae.load_model("mwmae-base-official")


def test_a_folder_wins_over_the_hub(model_dir, monkeypatch, nothing_is_fetched):
    monkeypatch.chdir(model_dir.parent.parent)
    assert embed(f"{model_dir.parent.name}/model").shape == (1, 160)


@pytest.mark.parametrize(
    "source", ["./model", "/org/repo", "~nobody/model", "a/b/c", "mwmae_tiny", "x" * 300, "nul\0"]
)
def test_no_such_model(source, nothing_is_fetched):
    """A name that is no org/repo is not asked for."""
    with pytest.raises(
        HearMwmaeError, match=r"no model .*a registered name \(mwmae-tiny"
    ) as caught:
        hear_mwmae.load_model(source)
    assert "\n" not in str(caught.value)


def test_a_local_folder_of_a_registered_name(model_dir, monkeypatch):
    """Is not what is loaded, and the warning says how it is."""
    model_dir.rename(model_dir.parent / DEFAULT_MODEL)
    monkeypatch.chdir(model_dir.parent)
    with pytest.warns(UserWarning, match=r"the registered model; './mwmae-tiny-2' loads the local"):
        assert hear_mwmae.load_model(DEFAULT_MODEL).scene_embedding_size == 3840
    assert hear_mwmae.load_model(f"./{DEFAULT_MODEL}").scene_embedding_size == 160


def test_save_pretrained(model_dir, tmp_path):
    """What the mixin of huggingface_hub does for other models."""
    model = Embedder.from_pretrained(model_dir, pooling="max", dtype="bfloat16")
    model.save_pretrained(tmp_path / "saved")
    names = {file.name for file in (tmp_path / "saved").iterdir()}
    assert names == {CONFIG_NAME, WEIGHTS_NAME}
    again = Embedder.from_pretrained(tmp_path / "saved", dtype="bfloat16")
    assert again.config == model.config and again.config.pooling == "max"
    assert torch.equal(again(CLIP), model(CLIP))
    with pytest.raises(HearMwmaeError, match=r"saved has no weights of the decoder$"):
        MaskedAutoencoder.from_pretrained(tmp_path / "saved")  # the encoder alone
    with pytest.raises(HearMwmaeError, match=r"the decoder of the model in .* would be lost"):
        model.save_pretrained(model_dir)
    MaskedAutoencoder.from_pretrained(model_dir)


def test_default_device_and_type_of_the_process_change_nothing():
    def embeddings() -> tuple[torch.Tensor, ...]:
        model = hear_mwmae.load_model()
        steps = hear_mwmae.get_timestamp_embeddings(CLIP, model)
        return (*steps, model.embed(CLIP.numpy()), *model.layers(CLIP, [0, -1]))

    expected = embeddings()
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        found = embeddings()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    for one, other in zip(expected, found, strict=True):
        assert one.device == other.device and one.dtype == other.dtype == torch.float32
        assert torch.equal(one, other)


def test_threads_that_load_leave_the_random_state_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(4) as threads:
        models = list(threads.map(lambda _: hear_mwmae.load_model(), range(4)))
    MaskedAutoencoder.from_pretrained()
    assert torch.equal(torch.get_rng_state(), before)
    first, *others = (model(CLIP) for model in models)
    assert all(torch.equal(first, other) for other in others)
