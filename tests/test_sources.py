"""What packs are made of: shards and manifests, here and on a server, damaged, failing."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import webdataset
from audio_files import encode, tone
from file_server import FileServer
from packing import rows, run
from reference import AUDIO

from hear_mwmae.audio import read_audio
from hear_mwmae.data import shards, sources
from hear_mwmae.data.pack import Pack
from hear_mwmae.data.packing import pack


def audioset_parquet(path: Path) -> None:
    """As the Hub has it: `audio` a struct of the file's bytes and path, beside labels."""
    contents = [(AUDIO / name).read_bytes() for name in ("crow.wav", "piano.flac")] + [b"broken", None]
    audio = [{"bytes": content, "path": f"{number}.flac"} for number, content in enumerate(contents)]
    pq.write_table(pa.table({"video_id": list("abcd"), "audio": audio, "labels": [["/m/09x0r"]] * 4}), path)


def audioset_tar(path: Path) -> None:
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for number, name in enumerate(("crow.wav", "piano.flac")):
            labels = json.dumps({"label": [number], "kind": "youtube"}).encode()
            writer.write({"__key__": f"--clip{number}", name.split(".")[1]: (AUDIO / name).read_bytes(), "json": labels})


@pytest.mark.parametrize("shard", [audioset_parquet, audioset_tar])
def test_shards_on_a_server(tmp_path, shard):
    suffix = ".tar" if shard is audioset_tar else ".parquet"
    for number in range(2):
        shard(tmp_path / f"train-{number}{suffix}")
    with FileServer(tmp_path) as server:
        code, output = run(f"{server.url}/train-{{0..1}}{suffix}", tmp_path / "out")
        assert code == 0, output
    made = Pack(tmp_path / "out")
    assert len(made.clips) == 4 and made.clips["shard"].tolist() == [0, 0, 1, 1]
    assert made.kinds == (["youtube"] if shard is audioset_tar else ["audio"])
    crow = (read_audio(AUDIO / "crow.wav", 16000).numpy() * 32768).round()
    assert np.array_equal(made.read(0), crow) and np.array_equal(made.read(2), crow)
    assert len(rows(tmp_path / "out" / "skipped.csv")) == (0 if shard is audioset_tar else 4)


def test_a_shard_that_is_cut_short_gives_what_it_has(tmp_path):
    audioset_tar(tmp_path / "train.tar")
    content = (tmp_path / "train.tar").read_bytes()
    with tarfile.open(tmp_path / "train.tar") as archive:
        last = archive.getmembers()[-1]
    (tmp_path / "train.tar").write_bytes(content[: last.offset_data - 700])
    code, output = run(tmp_path / "train.tar", tmp_path / "out")
    assert code == 0 and "1 clips" in output
    assert "damaged, what follows is lost" in rows(tmp_path / "out" / "skipped.csv")[-1]["reason"]


def test_a_server_that_fails_for_a_while_is_asked_again(tmp_path, monkeypatch):
    """And no clip comes twice, where the shard broke off after some of them."""
    monkeypatch.setattr(shards, "PATIENCE", 0.01)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 640000)
    soundfile.write(tmp_path / "noise.wav", noise, 16000)
    with webdataset.TarWriter(str(tmp_path / "0.tar"), encoder=False) as writer:
        for number in range(8):  # ten megabytes: more than is fetched at a time
            writer.write({"__key__": f"clip{number}", "wav": (tmp_path / "noise.wav").read_bytes()})
    with FileServer(tmp_path) as server:
        (shard,) = sources.find_inputs([f"{server.url}/0.tar"]).items
        recordings = sources.read_item(shard, 16000)
        found = [next(recordings)]
        server.cuts["/0.tar"] = 2
        found += recordings
        assert not server.cuts["/0.tar"]
    assert [recording.about["path"] for recording in found] == [f"clip{number}.wav" for number in range(8)]
    assert not any(recording.problem for recording in found)


def test_what_is_in_shards_is_decoded_from_memory(tmp_path, monkeypatch):
    """So that a disk without room costs no clip, by libsndfile and by FFmpeg."""
    pytest.importorskip("av")
    encode(tmp_path / "clip.m4a", tone(16000, 1.0), 16000, "aac")
    with webdataset.TarWriter(str(tmp_path / "0.tar"), encoder=False) as writer:
        for file in (AUDIO / "crow.wav", AUDIO / "glass.mp3", AUDIO / "till.opus", tmp_path / "clip.m4a"):
            writer.write({"__key__": file.stem, file.suffix[1:]: file.read_bytes()})
        writer.write({"__key__": "short", "wav": (AUDIO / "crow.wav").read_bytes()[:5000]})
    for module, name in ((os, "memfd_create"), (tempfile, "NamedTemporaryFile"), (tempfile, "mkstemp")):
        monkeypatch.setattr(module, name, lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")), raising=False)
    (shard,) = sources.find_inputs([str(tmp_path / "0.tar")]).items
    *whole, short = sources.read_item(shard, 16000)
    for recording, folder in zip(whole, [AUDIO, AUDIO, AUDIO, tmp_path], strict=True):
        assert torch.equal(recording.waveform, read_audio(folder / recording.member, 16000))
    assert (short.name, short.problem) == (f"{shard.url} short.wav", "truncated, it ends before what its header announces")


def test_a_name_that_comes_twice_costs_that_member_only(tmp_path):
    crow = (AUDIO / "crow.wav").read_bytes()
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        for name in ("k1.wav", "k1.wav", "k2.WAV", "k2.wav", "K2.wav", "k3.wav"):
            member = tarfile.TarInfo(name)
            member.size = len(crow)
            archive.addfile(member, io.BytesIO(crow))
    code, output = run(tmp_path / "train.tar", tmp_path / "out")
    assert code == 0 and "4 clips" in output, output
    assert [row["source"].split()[1] for row in rows(tmp_path / "out" / "skipped.csv")] == ["k1.wav", "k2.wav"]


def test_labels_that_json_cannot_hold_are_left_out(tmp_path):
    audio = [{"bytes": (AUDIO / "crow.wav").read_bytes(), "path": "crow.wav"}]
    table = {"audio": audio, "heard": [[datetime(2020, 1, 1)]], "raw": [[b"x"]], "place": [{"lake": "Constance"}], "none": [None]}
    pq.write_table(pa.table(table), tmp_path / "train.parquet")
    code, output = run(tmp_path / "train.parquet", tmp_path / "out")
    assert code == 0, output
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as archive:
        (about,) = [json.load(archive.extractfile(name)) for name in archive.getnames() if name.endswith(".json")]
    assert about["place"] == {"lake": "Constance"} and not {"heard", "raw", "none", "audio"} & about.keys()


def test_a_server_that_fails_ends_the_pack_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "PATIENCE", 0.01)
    for number in range(2):
        audioset_tar(tmp_path / f"{number}.tar")
    with FileServer(tmp_path) as server:
        source = f"{server.url}/{{0..1}}.tar"
        server.cuts["/1.tar"] = 100
        code, output = run(source, tmp_path / "out")
        assert code == 1 and output.splitlines()[-1].startswith("Error: ") and "1.tar" in output and "Traceback" not in output
        server.cuts.clear()
        code, output = run(source, tmp_path / "out")  # goes on
        assert code == 0 and "4 clips" in output


def test_names_with_dots_and_members_without_audio(tmp_path):
    """Seconds in a name are usual among AudioSet's clips; what holds no audio is listed."""
    crow = (AUDIO / "crow.wav").read_bytes()
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        contents = {"--0a_30.000_40.000.wav": crow, "--0a_30.000_40.000.json": b'{"kind": "crows"}', "text.txt": b"no audio"}
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    code, output = run(tmp_path / "train.tar", tmp_path / "out")
    assert code == 0 and "1 clips" in output
    assert Pack(tmp_path / "out").kinds == ["crows"]
    (skipped,) = rows(tmp_path / "out" / "skipped.csv")
    assert skipped["source"].endswith("train.tar text (txt)") and skipped["reason"] == "holds no audio"


@pytest.mark.parametrize("place", ["page", "footer", "all"])
def test_a_damaged_parquet_shard_does_not_stop_the_others(tmp_path, place):
    for name in ("a", "b"):
        audioset_parquet(tmp_path / f"{name}.parquet")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    start = {"page": 4, "footer": len(content) - 300, "all": 0}[place]
    content[start : start + 30 if place != "all" else None] = b"\xff" * 30
    (tmp_path / "a.parquet").write_bytes(content)
    code, output = run(tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "out")
    assert code == 0 and "2 clips" in output, output
    skipped = {row["source"]: row["reason"] for row in rows(tmp_path / "out" / "skipped.csv")}
    assert "damaged, what follows is lost" in skipped[str(tmp_path / "a.parquet")]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("file,kind\ncrow.flac,effects\n", "has no column path"),
        ("", "has no column path"),
        ("path,kind\n", "lists no audio"),
        ("path,kind\ngone.flac,effects\n", "nothing could be packed: .*gone.flac.*no such file"),
        ("path,kind\nmanifest.csv,effects\n", "nothing could be packed: .*not an audio file"),
        ("kind,path\neffects\n", "row 2 names no path"),
        ('path,kind\n"' + "x" * 200_000, "is no CSV"),
    ],
)
def test_bad_manifests(tmp_path, manifest, message):
    (tmp_path / "manifest.csv").write_text(manifest)
    with pytest.raises(ValueError, match=message):
        pack([str(tmp_path / "manifest.csv")], tmp_path / "out")


@pytest.mark.parametrize(
    "source",
    [
        "none.tar",
        "none-*.tar",
        "none",
        "none.csv",
        "https://127.0.0.1:1/none.tar",
        "https://127.0.0.1:1/none.csv",
        "some://none.tar",
    ],
)
def test_sources_that_are_not_there(tmp_path, source):
    source = source if "://" in source else tmp_path / source
    code, output = run(source, tmp_path / "out")
    assert code == 1 and output.startswith("Error: ") and "none" in output and output.count("\n") == 1


def test_a_shard_behind_a_link_of_another_name(tmp_path):
    """As in the Hub's cache, where only the link has the ending."""
    audioset_tar(tmp_path / "blob")
    (tmp_path / "train.tar").symlink_to("blob")
    assert run(str(tmp_path / "train.tar"), tmp_path / "out")[0] == 0
    assert len(Pack(tmp_path / "out").clips) == 2


def test_names_that_no_file_can_have_do_not_stop_the_others(tmp_path):
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    names = ["loop.wav", "pipe.wav", f"{'x' * 300}.wav", str(AUDIO / "crow.wav")]
    (tmp_path / "list.csv").write_text("path\n" + "\n".join(names))
    code, output = run(str(tmp_path / "list.csv"), tmp_path / "out")
    assert code == 0, output
    assert len(Pack(tmp_path / "out").clips) == 1 and len(rows(tmp_path / "out" / "skipped.csv")) == 3


def test_braces_that_do_not_match(tmp_path):
    code, output = run("x{0..3.tar", tmp_path / "out")
    assert code == 1 and output.startswith("Error: x{0..3.tar: ")


def test_labels_that_nest_without_end_are_none(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "a.tar"), encoder=False) as writer:
        writer.write({"__key__": "a", "wav": (AUDIO / "crow.wav").read_bytes(), "json": b"[" * 100_000})
    assert run(str(tmp_path / "a.tar"), tmp_path / "out")[0] == 0
    assert len(Pack(tmp_path / "out").clips) == 1
