"""Making packs: from folders, manifests and shards, here and on a server, interrupted, damaged."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import webdataset
from click.testing import CliRunner
from file_server import FileServer
from filelock import FileLock
from reference import AUDIO

from hear_mwmae.audio import read_audio
from hear_mwmae.cli import main
from hear_mwmae.training import sources
from hear_mwmae.training.pack import pack
from hear_mwmae.training.shards import Pack


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["pack", "--jobs", "1", *map(str, arguments)])
    return result.exit_code, result.output


def test_what_was_16_bit_is_packed_as_it_was(data, audio_folder):
    pcm, _ = soundfile.read(audio_folder / "long.flac", dtype="int16")
    pack = Pack(data)
    assert np.array_equal(np.concatenate([pack.read(number) for number in range(3)]), pcm)
    assert pack.clips["samples"].tolist()[:3] == [160000, 160000, len(pcm) - 320000]
    assert [pack.kinds[kind] for kind in pack.clips["kind"]] == ["notes", "notes", "notes", "effects"]
    assert rows(data / "skipped.csv") == [{"source": str(audio_folder / "silence.flac"), "reason": "silence from second 0 on"}]
    assert (data / "manifest.csv").read_bytes() == (audio_folder / "manifest.csv").read_bytes()


def test_shards_are_webdatasets(data):
    """Read by the library itself; what the manifest says of a clip travels with it."""
    samples = list(webdataset.WebDataset(str(data / "shard-000000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples][:2] == ["000000-000000-0000", "000000-000000-0001"]
    about = json.loads(samples[1]["json"])
    assert (about["path"], about["kind"], about["licence"], about["start"]) == ("long.flac", "notes", "CC0-1.0", 10.0)
    assert soundfile.info(io.BytesIO(samples[1]["flac"])).frames == 160000


def test_opus(audio_folder, tmp_path):
    assert run(audio_folder / "manifest.csv", tmp_path / "opus", "--codec", "opus")[0] == 0
    opus, pcm = Pack(tmp_path / "opus"), soundfile.read(audio_folder / "long.flac", dtype="float32")[0][:160000]
    decoded = opus.read(0) / 32768
    assert decoded.shape == pcm.shape and 0 < np.sqrt(np.mean((decoded - pcm) ** 2)) < 0.2 * np.sqrt(np.mean(pcm**2))


def test_loud_opus_does_not_wrap_around(tmp_path):
    """Opus overshoots full scale; in 16 bits that must be clipped."""
    square = np.sign(np.sin(2 * np.pi * 220 * np.arange(160000) / 16000))
    soundfile.write(tmp_path / "loud.flac", square * 0.9999, 16000)
    assert run(tmp_path / "loud.flac", tmp_path / "opus", "--codec", "opus")[0] == 0
    decoded = Pack(tmp_path / "opus").read(0) / 32768
    assert np.mean(np.sign(decoded) != square) < 0.02 and np.abs(decoded - square).max() < 1.3


def test_a_folder_of_any_audio(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name, place in (("glass.mp3", "a.mp3"), ("till.opus", "sub/b.opus")):
        shutil.copy(AUDIO / name, tmp_path / "in" / place)
    (tmp_path / "in" / "c.wav").write_bytes(b"RIFF, but no more")
    code, output = run(tmp_path / "in", tmp_path / "out", "--kind", "noises")
    assert code == 0 and "2 clips" in output and "1 skipped" in output
    made = Pack(tmp_path / "out")
    assert made.kinds == ["noises"]
    assert made.clips["samples"].tolist() == [len(read_audio(AUDIO / name, 16000)) for name in ("glass.mp3", "till.opus")]
    ((skipped,), path) = rows(tmp_path / "out" / "skipped.csv"), tmp_path / "in" / "c.wav"
    assert skipped["source"] == str(path) and "not an audio file" in skipped["reason"]


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


def alive(group: int) -> bool:
    """Whether any process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_that_fails_for_a_while_is_asked_again(tmp_path, monkeypatch):
    """And no clip comes twice, where the shard broke off after some of them."""
    monkeypatch.setattr(sources, "PATIENCE", 0.01)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 640000)
    soundfile.write(tmp_path / "noise.wav", noise, 16000)
    with webdataset.TarWriter(str(tmp_path / "0.tar"), encoder=False) as writer:
        for number in range(8):  # ten megabytes: more than is fetched at a time
            writer.write({"__key__": f"clip{number}", "wav": (tmp_path / "noise.wav").read_bytes()})
    with FileServer(tmp_path) as server:
        (shard,) = sources.list_items([f"{server.url}/0.tar"], "audio")
        recordings = sources.read_item(shard, 16000)
        found = [next(recordings)]
        server.cuts["/0.tar"] = 2
        found += recordings
        assert not server.cuts["/0.tar"]
    assert [recording.about["path"] for recording in found] == [f"clip{number}.wav" for number in range(8)]
    assert not any(recording.problem for recording in found)


def test_a_server_that_fails_ends_the_pack_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PATIENCE", 0.01)
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


def test_samples_that_are_not_finite(tmp_path):
    audio = np.full(16000, 0.1, np.float32)
    audio[5] = np.nan
    soundfile.write(tmp_path / "nan.wav", audio, 16000, subtype="FLOAT")
    code, output = run(tmp_path / "nan.wav", tmp_path / "out")
    assert code == 1 and "nan.wav holds samples that are not finite" in output
    soundfile.write(tmp_path / "nan.wav", np.nan_to_num(audio), 16000, subtype="FLOAT")
    assert run(tmp_path / "nan.wav", tmp_path / "out")[0] == 0  # nothing was left behind


def test_one_at_a_time(audio_folder, tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        code, output = run(audio_folder / "manifest.csv", tmp_path / "out")
    assert code == 1 and "another process is packing into" in output


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON"])
def test_folders_of_others(audio_folder, tmp_path, content):
    (tmp_path / "notes.txt").write_text("mine")
    code, output = run(audio_folder / "manifest.csv", tmp_path)
    assert code == 1 and "is not empty (it holds notes.txt)" in output
    (tmp_path / "pack.json").write_text(content)
    code, output = run(audio_folder / "manifest.csv", tmp_path)
    assert code == 1 and "holds a pack of other sources" in output
    with pytest.raises(ValueError, match=r"pack.json is damaged, or not of format 1"):
        Pack(tmp_path)
    code, output = run(audio_folder / "manifest.csv", "https://host/pack")
    assert code == 1 and "is made in a local folder" in output


def test_changed_sources_are_packed_anew(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(16000, 0.1), 16000)
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(16000)) * 0.1, 16000)
    assert run(tmp_path / "a.wav", tmp_path / "out")[0] == 0
    soundfile.write(tmp_path / "a.wav", np.cos(np.arange(16000)) * 0.1, 16000)
    code, output = run(tmp_path / "a.wav", tmp_path / "out")
    assert code == 1 and "other sources" in output


def test_kinds_of_a_manifest(audio_folder, tmp_path):
    """An empty kind is none; a spreadsheet's mark at the beginning does no harm."""
    shutil.copy(audio_folder / "crow.flac", tmp_path)
    (tmp_path / "m.csv").write_text("\ufeffpath,kind\ncrow.flac,\ncrow.flac,birds\n")
    assert run(tmp_path / "m.csv", tmp_path / "out", "--kind", "noises")[0] == 0
    assert Pack(tmp_path / "out").kinds == ["noises", "birds"]


def test_several_manifests_are_kept_in_one(audio_folder, tmp_path):
    """With the columns of all; clips follow in the order of the sources."""
    for name, text in (("a", "path,kind,licence\ncrow.flac,birds,CC0\n"), ("b", "\ufeffpath,kind,hours\nlong.flac,notes,0.1\n")):
        (tmp_path / name).mkdir()
        shutil.copy(audio_folder / text.splitlines()[1].split(",")[0], tmp_path / name)
        (tmp_path / name / "m.csv").write_text(text)
    assert run(tmp_path / "a" / "m.csv", tmp_path / "b" / "m.csv", tmp_path / "out")[0] == 0
    assert rows(tmp_path / "out" / "manifest.csv") == [
        {"path": "crow.flac", "kind": "birds", "licence": "CC0", "hours": ""},
        {"path": "long.flac", "kind": "notes", "licence": "", "hours": "0.1"},
    ]
    assert Pack(tmp_path / "out").kinds == ["birds", "notes"]


def test_killed_and_started_again_makes_the_same_pack(audio_folder, tmp_path):
    for number in range(24):
        shutil.copy(audio_folder / "long.flac", tmp_path / f"{number:02d}.flac")
    folders = {"whole": tmp_path / "whole", "parts": tmp_path / "parts"}
    settings = ["--jobs", "2", "--shard-size", "1"]  # a MiB of files is a shard: three of these
    command = [sys.executable, "-m", "hear_mwmae.cli", "pack", *(str(tmp_path / f"{n:02d}.flac") for n in range(24))]
    process = subprocess.Popen([*command, str(folders["parts"]), *settings], stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(folders["parts"].glob(".shard-*.skipped.csv"))) < 2:
        time.sleep(0.02)
    process.kill()
    process.wait()
    while alive(process.pid) and time.monotonic() < deadline:  # its workers notice that it is gone
        time.sleep(0.02)
    assert not alive(process.pid)
    finished = {part: part.stat().st_mtime_ns for part in folders["parts"].glob("shard-*.tar")}
    with pytest.raises(ValueError, match="is not a finished pack"):
        Pack(folders["parts"])
    for folder in folders.values():
        done = subprocess.run([*command, str(folder), *settings], capture_output=True, text=True)
        assert done.returncode == 0 and "72 clips" in done.stdout, done.stderr
    assert sum(part.stat().st_mtime_ns == when for part, when in finished.items()) >= 2  # not made again
    contents = [{file.name: file.read_bytes() for file in folder.glob("[!.]*")} for folder in folders.values()]
    assert contents[0] == contents[1] and 0 < len(finished) < len(contents[0]) - 3 == 6


def test_a_pack_is_of_its_sources(audio_folder, tmp_path):
    assert run(audio_folder / "manifest.csv", tmp_path / "out")[0] == 0
    before = (tmp_path / "out" / "pack.json").stat().st_mtime_ns
    assert run(audio_folder / "manifest.csv", tmp_path / "out")[0] == 0  # there is nothing to do
    assert (tmp_path / "out" / "pack.json").stat().st_mtime_ns == before
    for other in ([audio_folder], [audio_folder / "manifest.csv", "--codec", "opus"]):
        code, output = run(*other[:1], tmp_path / "out", *other[1:])
        assert code == 1 and "holds a pack of other sources or settings" in output


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
