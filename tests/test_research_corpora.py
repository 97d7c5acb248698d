"""Corpora: procedural sound, recorded speech, the audio of Debian packages, development tasks."""

import io
import shutil
import subprocess
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from click.testing import CliRunner
from reference import AUDIO

from hear_mwmae.errors import HearMwmaeError
from research.corpora import (
    debian_audio,
    dev_tasks,
    manifest,
    procedural,
    recorded_speech,
    speech,
    voices,
)


def run(command, *arguments: object) -> str:
    done = CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_procedural_sound_is_what_version_1_was():
    """To the digits that no processor changes: else its version has to be raised."""
    levels = [np.sqrt(np.mean(procedural.render_clip(index) ** 2)) for index in range(3)]
    assert levels == pytest.approx([0.031048, 0.049139, 0.015008], rel=1e-4)


def clip_row(name: str, seconds: float) -> dict[str, object]:
    """As the Parquet files of recorded speech have them."""
    stream = io.BytesIO()
    noise = np.random.default_rng(0).normal(size=round(seconds * 16000)) / 10
    soundfile.write(stream, noise, 16000, format="OGG", subtype="OPUS")
    source = {"kind": "speech", "package": "voices", "licence": "CC0-1.0"}
    return source | {"audio": {"bytes": stream.getvalue(), "path": name}, "speaker": "7"}


def test_recorded_speech_of_parquet_files(tmp_path):
    """The second file has a copy of a clip of the first, and a clip that is too short."""
    files = [tmp_path / "0.parquet", tmp_path / "1.parquet", tmp_path / "unknown.parquet"]
    rows = [[clip_row("a", 0.6)], [clip_row("copy", 0.6), clip_row("short", 0.05)]]
    rows.append([clip_row("a", 0.6) | {"licence": ""}])
    for file, some in zip(files, rows, strict=True):
        pq.write_table(pa.Table.from_pylist(some), file)
    run(recorded_speech.main, tmp_path / "out", *files[:2], "--jobs", 1)
    (found,) = manifest.read_manifest(tmp_path / "out" / "manifest.csv").to_dict("records")
    assert (found["kind"], found["package"], found["licence"]) == ("speech", "voices", "CC0-1.0")
    assert [found["path"]] == [
        str(path.relative_to(tmp_path / "out")) for path in tmp_path.rglob("*.flac")
    ]
    info = soundfile.info(tmp_path / "out" / found["path"])
    assert info.samplerate == 16000 and info.duration == pytest.approx(found["seconds"], abs=1e-3)
    with pytest.raises(HearMwmaeError, match="does not say package, kind and licence"):
        list(recorded_speech.render_file(files[2]))


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg")
def test_a_deb_becomes_audio(tmp_path, monkeypatch):
    """A package with a WAV, a copy of it, a file that is no audio, silence, a zip archive with an
    Ogg in it, and a container with a WAV among other bytes.
    """
    sounds = tmp_path / "package" / "usr" / "share" / "some-sounds"
    sounds.mkdir(parents=True)
    (tmp_path / "package" / "DEBIAN").mkdir()
    control = "Package: some-sounds\nVersion: 1.0\nArchitecture: all\nDescription: x\n"
    control += "Maintainer: Nobody <nobody@example.org>\n"
    (tmp_path / "package" / "DEBIAN" / "control").write_text(control)
    crow = (AUDIO / "crow.wav").read_bytes()
    (sounds / "crow.wav").write_bytes(crow)
    (sounds / "again.wav").write_bytes(crow)
    (sounds / "broken.ogg").write_bytes(b"OggS and no more")
    soundfile.write(sounds / "silence.wav", np.zeros(16000), 16000)
    soundfile.write(tmp_path / "tone.wav", np.sin(np.arange(8000) / 5) / 2, 16000)
    tone = (tmp_path / "tone.wav").read_bytes()
    (sounds / "game.bin").write_bytes(b"header" + tone + b"more")
    with zipfile.ZipFile(sounds / "more.pk3", "w") as archive:
        archive.write(AUDIO / "tabla.ogg", "voices/tabla.ogg")
    (tmp_path / "out" / "debs").mkdir(parents=True)
    deb = tmp_path / "out" / "debs" / "some-sounds_1.0_all.deb"
    command = ["dpkg-deb", "--build", tmp_path / "package", deb]
    subprocess.run(command, check=True, capture_output=True)
    row = {"package": "some-sounds", "kind": "effects", "licence": "CC0-1.0"}
    kept_back = {"package": "kept-back", "kind": debian_audio.DEVELOPMENT}  # is not asked for
    monkeypatch.setattr(debian_audio, "read_package_list", lambda: [row, kept_back])
    assert "broken.ogg" in run(debian_audio.main, tmp_path / "out", "--jobs", 1)
    rows = manifest.read_manifest(tmp_path / "out" / "manifest.csv")
    names = rows["path"].str.split("__").str[-1]
    assert dict(zip(names, rows["kind"], strict=True)) == {
        "again.wav.flac": "effects",
        "0000000006.wav.flac": "effects",
        "tabla.ogg.flac": "speech",  # by its folder
    }
    for path in rows["path"]:
        info = soundfile.info(tmp_path / "out" / path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")


def test_held_out_voices_are_in_no_plan(tmp_path, monkeypatch):
    monkeypatch.setattr(speech, "SHARE", tmp_path)
    for row in speech.WORD_LISTS.values():
        path = tmp_path / row["path"]
        path.parent.mkdir(exist_ok=True)
        path.write_text("plain/ABC\nnot-this\n4th\nOther\n")
    plan = speech.plan(300)
    assert plan[:50] == speech.plan(50)
    assert not set(plan) & set(voices.HELD_OUT)
    assert {voice.engine for voice in plan} == {"espeak-ng", "flite", "festival"}
    assert all(voice.licence for voice in plan)
    assert speech.words("de") == ["other", "plain"]


def test_everyday_sounds_are_kept_from_pretraining():
    listed = {row["package"]: row["kind"] for row in debian_audio.read_package_list()}
    rows = pd.read_csv(dev_tasks.EVERYDAY)
    assert {listed[package] for package in rows["package"]} == {debian_audio.DEVELOPMENT}
