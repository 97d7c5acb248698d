"""Training data: features, batches, manifests, and audio out of Debian packages."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from reference import AUDIO
from tiny_run import write_recipe

from hear_mwmae.config import FrontendConfig
from hear_mwmae.frontend import LogMelFrontend, normalise
from hear_mwmae.training import debian_audio
from hear_mwmae.training.data import FeatureStore
from hear_mwmae.training.recipe import Recipe


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


@pytest.mark.parametrize("kinds", ["{notes = 0.5, effects = 0.5}", "{}"])
def test_batches_are_functions_of_seed_and_step(data, tmp_path, kinds):
    store = FeatureStore(data, FrontendConfig())
    one, two = (Recipe.read(write_recipe(tmp_path / "recipe.toml", seed=seed), [f"kinds={kinds}"]) for seed in (1, 2))
    batches = store.batches(one, 200)
    assert batches[3].shape == (8, 200, 80) and batches[3].dtype == torch.float32
    assert torch.equal(batches[3], store.batches(one, 200)[3])
    assert not torch.equal(batches[3], batches[4]) and not torch.equal(batches[3], store.batches(two, 200)[3])


def test_without_kinds_every_clip_comes_once_per_epoch(data, tmp_path):
    store = FeatureStore(data, FrontendConfig())
    recipe = Recipe.read(write_recipe(tmp_path / "recipe.toml", batch_size=6), ["kinds={}"])
    batches = store.batches(recipe, 200)
    drawn = [pick for step in range(4) for pick in batches.draw(step, None)]  # 4 clips: six epochs in four batches
    epochs = [drawn[start : start + 4] for start in range(0, 24, 4)]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) > 1


def test_a_fraction_of_the_data(data, tmp_path):
    store = FeatureStore(data, FrontendConfig())
    clips = {
        seed: store.batches(
            Recipe.read(write_recipe(tmp_path / "r.toml", seed=seed), ["kinds={}", "data_fraction=0.5"]), 200
        ).clips
        for seed in range(6)
    }
    assert {len(chosen) for chosen in clips.values()} == {2} and len({tuple(c["first"]) for c in clips.values()}) > 1


def test_short_clips_are_reflected_and_shares_kept(data, tmp_path):
    store = FeatureStore(data, FrontendConfig())
    crow = store.clips[store.clips["kind"] == "effects"][0]
    frames = torch.from_numpy(store.frames[crow["first"] : crow["first"] + crow["frames"]].astype("f4"))
    path = write_recipe(tmp_path / "recipe.toml", batch_size=1000)
    crop = store.batches(Recipe.read(path, ["kinds={effects = 1.0}"]), 200)[0][0]
    assert torch.equal(crop[: len(frames)], frames) and torch.equal(crop[len(frames)], frames[-2])
    batch = store.batches(Recipe.read(path, ["kinds={notes = 0.25, effects = 0.75}"]), 200)[0]
    assert 0.7 < (batch == crop).all(dim=2).all(dim=1).float().mean() < 0.8


def test_data_errors(data, tmp_path):
    with pytest.raises(ValueError, match=r"no manifest.csv"):
        FeatureStore(tmp_path, FrontendConfig())
    with pytest.raises(ValueError, match=r"no clips of kind \['speech'\]"):
        recipe = Recipe.read(write_recipe(tmp_path / "recipe.toml"), ["kinds={speech = 1.0}"])
        FeatureStore(data, FrontendConfig()).batches(recipe, 200)


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
