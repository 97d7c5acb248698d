"""Audio of Debian packages, from a package made here."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from reference import AUDIO

from corpora import debian_audio


def test_package_list_and_kinds():
    packages = debian_audio.read_package_list()
    kinds = {"speech", "music", "notes", "effects", debian_audio.DEVELOPMENT}
    assert len(packages) > 100 and {row["kind"] for row in packages.values()} == kinds
    assert all(row["licence"] and row["licence"] != "TBD" for row in packages.values())
    assert debian_audio.kind_of("usr__share__stamps__frog_desc_ru.ogg", "effects") == "speech"
    assert debian_audio.kind_of("usr__share__game__music__theme.ogg", "effects") == "music"
    assert debian_audio.kind_of("usr__share__game__frog.ogg", "effects") == "effects"


def test_a_deb_becomes_audio(tmp_path, monkeypatch):
    """A package with a WAV, a duplicate, an unreadable file, silence, and a zip archive with an Ogg
    in it.
    """
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
    listed["kept-back"] = {"package": "kept-back", "kind": debian_audio.DEVELOPMENT, "licence": "CC0-1.0"}  # is not asked for
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
