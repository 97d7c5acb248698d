"""Pretraining: recipe, data, schedule, a run that is really killed, the probe, the package list."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from reference import AUDIO
from safetensors.torch import load_file

import hear_mwmae
from hear_mwmae.audio import read_audio
from hear_mwmae.config import FrontendConfig, derive_window_sizes, preset
from hear_mwmae.frontend import LogMelFrontend, normalise
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.training import debian_audio
from hear_mwmae.training.data import FeatureStore
from hear_mwmae.training.loop import pretrain
from hear_mwmae.training.optim import make_optimisers, schedule
from hear_mwmae.training.probe import log_mel_baseline, probe, untrained_baseline
from hear_mwmae.training.probe import main as probe_command
from hear_mwmae.training.publish import main as publish_command
from hear_mwmae.training.recipe import Recipe

RECIPES = sorted((Path(hear_mwmae.__file__).parent / "training" / "recipes").glob("*.toml"))
RECIPE = """
preset = "mwmae-tiny"
model = { encoder = { width = 32, depth = 1, heads = 2 }, decoder = { width = 32, depth = 1 } }
kinds = { notes = 0.5, effects = 0.5 }
steps = 12
warmup_steps = 3
decay_steps = 6
batch_size = 8
optimiser = "muon"
learning_rate = 1e-3
muon_learning_rate = 1e-2
weight_decay = 0.05
precision = "float32"
seed = 0
checkpoint_every = 2
"""


def write_recipe(path: Path, **changes: object) -> Path:
    lines = [line for line in RECIPE.strip().splitlines() if line.split(" = ")[0] not in changes]
    lines += [
        f"{key} = {json.dumps(value).replace('NaN', 'nan').replace('Infinity', 'inf')}"
        for key, value in changes.items()
        if value is not None
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder as debian_audio leaves it: 16 kHz FLAC and a manifest. One clip is long, one shorter than a crop."""
    folder = tmp_path_factory.mktemp("data")
    long = torch.cat([read_audio(AUDIO / name, 16000) for name in ("piano.flac", "glass.mp3", "till.opus")] * 3)
    clips = {"long.flac": (long, "notes"), "crow.flac": (read_audio(AUDIO / "crow.wav", 16000), "effects")}
    clips["silence.flac"] = torch.zeros(16000), "effects"
    with open(folder / "manifest.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "seconds", "package", "version", "kind", "licence"])
        for name, (audio, kind) in clips.items():
            soundfile.write(folder / name, audio.numpy(), 16000, subtype="PCM_16")
            writer.writerow([name, len(audio) / 16000, "some-package", "1.0", kind, "CC0-1.0"])
    return folder


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path):
    recipe = Recipe.read(path)
    assert recipe.model_config().encoder == preset(recipe.preset).encoder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, r"unknown keys \['colour'\]"),
        ({"steps": None}, r"missing keys \['steps'\]"),
        ({"steps": "many"}, "steps must be int, got 'many'"),
        ({"steps": 5}, "must fit into steps, 5"),
        ({"batch_size": 0}, "batch_size must be above 0"),
        ({"optimiser": "sgd"}, "optimiser must be one of adamw, muon"),
        ({"precision": "float8"}, "precision must be one of"),
        ({"preset": "mwmae-giant"}, "unknown preset"),
        ({"weight_decay": -0.1}, "weight_decay must be a finite number of at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number"),
        ({"muon_learning_rate": float("inf")}, "muon_learning_rate must be a finite number"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_bad_recipes(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe.read(write_recipe(tmp_path / "recipe.toml", **changes))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("notes = 0.5", "notes = 0.6", "sum to 1"),
        ("notes = 0.5", "notes = nan", "sum to 1"),
        ("notes = 0.5", "notes = 'half'", "sum to 1"),
        ("width = 32, depth = 1, heads = 2", "widht = 32", r"unknown keys \['widht'\]"),
        ("preset =", "preset", "cannot read recipe"),
    ],
)
def test_bad_tables_in_recipes(tmp_path, old, new, message):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace(old, new))
    with pytest.raises(ValueError, match=message):
        Recipe.read(tmp_path / "recipe.toml")


def test_schedule(tmp_path):
    recipe = Recipe.read(write_recipe(tmp_path / "recipe.toml"))
    factors = [schedule(step, recipe) for step in range(recipe.steps + 1)]
    assert factors[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1])  # warm-up
    assert factors[3:7] == [1, 1, 1, 1]  # constant
    assert factors[6:] == pytest.approx([(1 + np.cos(np.pi * i / 6)) / 2 for i in range(7)], abs=1e-12)  # cosine to 0


def test_muon_takes_the_hidden_matrices_only(tmp_path):
    recipe = Recipe.read(write_recipe(tmp_path / "recipe.toml"))
    model = MaskedAutoencoder(recipe.model_config())
    names = {id(p): name for name, p in model.named_parameters()}
    adamw, muon = ({names[id(p)] for g in o.param_groups for p in g["params"]} for o in make_optimisers(model, recipe))
    assert adamw | muon == set(names.values()) and not adamw & muon
    assert all(name.endswith(".weight") and ".blocks." in name for name in muon) and len(muon) == 8
    assert {"encoder.patch_embed.weight", "decoder.decoder_pred.weight", "encoder.pos_embed"} <= adamw


def test_features_are_those_of_the_frontend(data):
    store = FeatureStore(data, FrontendConfig())
    assert store.clips["kind"].tolist() == ["notes", "notes", "notes", "effects"]  # 28 s in clips of 10 s; silence is dropped
    assert store.clips["frames"].tolist()[:2] == [1001, 1001]
    audio, _ = soundfile.read(data / "long.flac", dtype="float32")
    frontend = LogMelFrontend(FrontendConfig())
    expected = normalise(frontend.log_mel(torch.from_numpy(audio[160000:320000])[None]), unbiased=False)[0]
    first = store.clips["first"][1]
    assert np.abs(store.frames[first : first + 1001].astype("f4") - expected.numpy()).max() < 5e-3  # float16


def test_features_are_built_anew_when_the_manifest_changes(data, tmp_path):
    for file in data.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert len(FeatureStore(tmp_path, FrontendConfig()).clips) == 4
    lines = (tmp_path / "manifest.csv").read_text().splitlines()
    (tmp_path / "manifest.csv").write_text("\n".join(lines[:2]) + "\n")
    assert len(FeatureStore(tmp_path, FrontendConfig()).clips) == 3


def test_batches_are_functions_of_seed_and_step(data):
    store = FeatureStore(data, FrontendConfig())
    batches = store.batches({"notes": 0.5, "effects": 0.5}, 16, 200, seed=1)
    assert batches[3].shape == (16, 200, 80) and batches[3].dtype == torch.float32
    assert torch.equal(batches[3], store.batches({"notes": 0.5, "effects": 0.5}, 16, 200, seed=1)[3])
    assert not torch.equal(batches[3], batches[4])
    assert not torch.equal(batches[3], store.batches({"notes": 0.5, "effects": 0.5}, 16, 200, seed=2)[3])


def test_short_clips_are_reflected_and_shares_kept(data):
    store = FeatureStore(data, FrontendConfig())
    crow = store.clips[store.clips["kind"] == "effects"][0]
    frames = torch.from_numpy(store.frames[crow["first"] : crow["first"] + crow["frames"]].astype("f4"))
    crop = store.batches({"effects": 1.0}, 1, 200, seed=0)[0][0]
    assert torch.equal(crop[: len(frames)], frames) and torch.equal(crop[len(frames)], frames[-2])
    batch = store.batches({"notes": 0.25, "effects": 0.75}, 1000, 200, seed=0)[0]
    assert 0.7 < (batch == crop).all(dim=2).all(dim=1).float().mean() < 0.8


def test_data_errors(data, tmp_path):
    with pytest.raises(ValueError, match=r"no manifest.csv"):
        FeatureStore(tmp_path, FrontendConfig())
    with pytest.raises(ValueError, match=r"no clips of kind \['speech'\]"):
        FeatureStore(data, FrontendConfig()).batches({"speech": 1.0}, 1, 200, 0)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("file,kind\ncrow.flac,effects\n", "has no column path"),
        ("", "has no column kind or path"),
        ("path,kind\ngone.flac,effects\n", r"lists .*gone.flac, which cannot be read"),
        ("path,kind\nmanifest.csv,effects\n", r"lists .*manifest.csv, which cannot be read"),
        ("path,kind\nfast.wav,effects\n", "must be 16000 Hz mono, is 44100 Hz"),
        ("path,kind\n", "lists no audio"),
    ],
)
def test_bad_manifests(tmp_path, manifest, message):
    soundfile.write(tmp_path / "fast.wav", np.zeros(1000), 44100)
    (tmp_path / "manifest.csv").write_text(manifest)
    with pytest.raises(ValueError, match=message):
        FeatureStore(tmp_path, FrontendConfig())


def log(run: Path) -> list[dict[str, str]]:
    with open(run / "log.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_loss_goes_down(data, tmp_path):
    recipe = Recipe.read(write_recipe(tmp_path / "recipe.toml", steps=60))
    model = pretrain(recipe, data, tmp_path / "run")
    losses = [float(row["loss"]) for row in log(tmp_path / "run")]
    assert len(losses) == 60 and np.mean(losses[-5:]) < 0.6 * losses[0]
    assert MaskedAutoencoder.from_pretrained(str(model)).config == recipe.model_config()
    assert hear_mwmae.load_model(str(model)).scene_embedding_size == 160


def test_killed_and_started_again_ends_with_the_same_weights(data, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.toml", steps=40)
    command = [sys.executable, "-m", "hear_mwmae.cli", "pretrain", str(recipe), str(data)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    for how in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen([*command, str(tmp_path / "parts")], stderr=subprocess.PIPE, text=True)
        rows = len(log(tmp_path / "parts")) if (tmp_path / "parts" / "log.csv").exists() else 0
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if (tmp_path / "parts" / "log.csv").exists() and len(log(tmp_path / "parts")) >= rows + 3:
                break
            time.sleep(0.02)
        process.send_signal(how)
        _, errors = process.communicate(timeout=120)
        assert process.returncode != 0
        if how == signal.SIGTERM:
            assert "the same command goes on from there" in errors
    subprocess.run([*command, str(tmp_path / "parts")], check=True, capture_output=True)
    whole, parts = (tmp_path / run / "model" / "model.safetensors" for run in ("whole", "parts"))
    whole, parts = load_file(whole), load_file(parts)
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    assert [row["loss"] for row in log(tmp_path / "whole")] == [row["loss"] for row in log(tmp_path / "parts")]


def test_a_run_may_be_lengthened_but_not_changed(data, tmp_path):
    pretrain(Recipe.read(write_recipe(tmp_path / "recipe.toml")), data, tmp_path / "run")
    pretrain(Recipe.read(write_recipe(tmp_path / "recipe.toml", steps=14)), data, tmp_path / "run")
    assert len(log(tmp_path / "run")) == 14
    with pytest.raises(ValueError, match="belongs to another recipe"):
        pretrain(Recipe.read(write_recipe(tmp_path / "recipe.toml", seed=1)), data, tmp_path / "run")


def test_a_run_keeps_to_its_data(data, tmp_path):
    recipe = Recipe.read(write_recipe(tmp_path / "recipe.toml"))
    pretrain(recipe, data, tmp_path / "run")
    for file in data.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with open(tmp_path / "manifest.csv", "a") as stream:
        stream.write("crow.flac,1.0,another-package,1.0,effects,CC0-1.0\n")
    with pytest.raises(ValueError, match="belongs to another data"):
        pretrain(recipe, tmp_path, tmp_path / "run")


@pytest.mark.parametrize("damage", [lambda content: content[:1000], lambda content: b"", lambda content: b"no checkpoint"])
def test_a_damaged_checkpoint(data, tmp_path, damage):
    recipe = Recipe.read(write_recipe(tmp_path / "recipe.toml"))
    pretrain(recipe, data, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    with pytest.raises(ValueError, match=r"checkpoint.pt is no checkpoint of a run, or damaged"):
        pretrain(recipe, data, tmp_path / "run")


def test_a_checkpoint_with_code_in_it_does_not_run(data, tmp_path):
    class Code:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "run").mkdir()
    torch.save({"identity": Code()}, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(ValueError, match="no checkpoint of a run"):
        pretrain(Recipe.read(write_recipe(tmp_path / "recipe.toml")), data, tmp_path / "run")
    assert not (tmp_path / "ran").exists()


def test_signal_handlers_are_restored(data, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    pretrain(Recipe.read(write_recipe(tmp_path / "recipe.toml")), data, tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_loss_that_is_not_finite_ends_the_run(data, tmp_path):
    recipe = Recipe.read(write_recipe(tmp_path / "recipe.toml", learning_rate=1e30, optimiser="adamw"))
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step"):
        pretrain(recipe, data, tmp_path / "run")


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    """A HEAR task of three splits: low and high tones."""
    folder = tmp_path_factory.mktemp("tones")
    splits = ["fold00", "fold01", "fold02"]
    metadata = {"task_name": "tones", "embedding_type": "scene", "prediction_type": "multiclass", "splits": splits}
    (folder / "task_metadata.json").write_text(json.dumps(metadata))
    rng = np.random.default_rng(0)
    for split in splits:
        (folder / "16000" / split).mkdir(parents=True)
        labels = {}
        for number in range(8):
            hertz = rng.uniform(200, 400) * (8 if number % 2 else 1)
            audio = 0.3 * np.sin(2 * np.pi * hertz * np.arange(8000) / 16000) + 0.01 * rng.standard_normal(8000)
            soundfile.write(folder / "16000" / split / f"{number}.wav", audio, 16000)
            labels[f"{number}.wav"] = ["high" if number % 2 else "low"]
        (folder / f"{split}.json").write_text(json.dumps(labels))
    return folder


def test_probe(task, embedded_model):
    for embed in (log_mel_baseline(), untrained_baseline(preset("mwmae-tiny")), embedded_model.scene_embeddings):
        assert probe(task, embed) == [1.0, 1.0, 1.0]
    assert np.mean(probe(task, lambda audio: torch.rand(1, 4))) < 0.9
    result = CliRunner().invoke(probe_command, [str(task), "--log-mel"])
    assert result.exit_code == 0 and "100.0" in result.output


def test_publish_a_finished_run(data, task, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.toml")
    pretrain(Recipe.read(recipe), data, tmp_path / "run")
    (tmp_path / "limits").write_text("Knows three clips.\n")
    arguments = [recipe, data, tmp_path / "run", task, "-o", tmp_path / "out", "--limits", tmp_path / "limits"]
    arguments += ["--hardware", "two cores"]
    result = CliRunner().invoke(publish_command, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| some-package | 1.0 | effects 0.00, notes 0.01 | CC0-1.0 |" in card
    assert (
        "12 steps of 8 crops" in card
        and "minutes on two cores;" in card
        and "- Knows three clips." in card
        and "| tones | accuracy | " in card
    )
    _, state = hear_mwmae.checkpoint.read_model(tmp_path / "out")
    assert {value.dtype for value in state.values()} == {torch.float16}
    longer = write_recipe(tmp_path / "recipe.toml", steps=50)
    result = CliRunner().invoke(publish_command, list(map(str, [longer, *arguments[1:]])))
    assert result.exit_code != 0 and "not finished" in str(result.exception)


def test_package_list_and_kinds():
    packages = debian_audio.read_package_list()
    assert len(packages) > 100 and {row["kind"] for row in packages.values()} == {"speech", "music", "notes", "effects"}
    assert all(row["licence"] and row["licence"] != "TBD" for row in packages.values())
    assert debian_audio.kind_of("usr__share__stamps__frog_desc_ru.ogg", "effects") == "speech"
    assert debian_audio.kind_of("usr__share__game__music__theme.ogg", "effects") == "music"
    assert debian_audio.kind_of("usr__share__game__frog.ogg", "effects") == "effects"


def test_a_deb_becomes_audio(tmp_path, monkeypatch):
    """A package with a WAV, a duplicate, an unreadable file, silence, and a zip archive with an Ogg in it."""
    if not Path("/usr/bin/dpkg-deb").exists():
        pytest.skip("needs dpkg")
    import zipfile

    sounds = tmp_path / "package" / "usr" / "share" / "some-sounds"
    sounds.mkdir(parents=True)
    control = "Package: some-sounds\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\nDescription: x\n"
    (tmp_path / "package" / "DEBIAN").mkdir()
    (tmp_path / "package" / "DEBIAN" / "control").write_text(control)
    (sounds / "crow.wav").write_bytes((AUDIO / "crow.wav").read_bytes())
    (sounds / "again.wav").write_bytes((AUDIO / "crow.wav").read_bytes())
    (sounds / "broken.ogg").write_bytes(b"OggS and no more")
    soundfile.write(sounds / "silence.wav", np.zeros(16000), 16000)
    with zipfile.ZipFile(sounds / "more.pk3", "w") as archive:
        archive.write(AUDIO / "tabla.ogg", "voices/tabla.ogg")
    (tmp_path / "out" / "debs").mkdir(parents=True)
    deb = tmp_path / "out" / "debs" / "some-sounds_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--build", tmp_path / "package", deb], check=True, capture_output=True)
    listed = {"some-sounds": {"package": "some-sounds", "kind": "effects", "licence": "CC0-1.0"}}
    monkeypatch.setattr(debian_audio, "read_package_list", lambda: listed)
    for _ in range(2):  # the second run finds everything done
        result = CliRunner().invoke(debian_audio.main, [str(tmp_path / "out"), "--jobs", "1"])
        assert result.exit_code == 0, result.output
    with open(tmp_path / "out" / "manifest.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert sorted((Path(row["path"]).name.split("__")[-1], row["kind"]) for row in rows) == [
        ("again.wav.flac", "effects"),
        ("tabla.ogg.flac", "speech"),  # by its folder
    ]
    for row in rows:
        info = soundfile.info(tmp_path / "out" / row["path"])
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
    record = json.loads((tmp_path / "out" / "records" / "some-sounds.json").read_text())
    assert (record["duplicate"], record["silent"], len(record["unreadable"])) == (1, 1, 1)


def test_windows_of_the_shipped_recipe_follow_the_rule():
    (config,) = {Recipe.read(path).model_config() for path in RECIPES if path.stem == "mwmae-tiny-cpu"}
    assert config.decoder.window_sizes == derive_window_sizes(250)
