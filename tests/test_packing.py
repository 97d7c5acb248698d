"""Making packs: from folders, manifests and shards, here and on a server, interrupted, damaged."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import tarfile
import time
from hashlib import sha256
from zlib import crc32

import forked
import numpy as np
import pytest
import soundfile
import webdataset
from filelock import FileLock
from packing import rows, run
from reference import AUDIO

from hear_mwmae.audio import read_audio
from hear_mwmae.data.pack import Pack


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


@pytest.mark.parametrize("codec", ["flac", "opus"])
def test_the_description_of_a_pack_is_that_of_its_files(audio_folder, tmp_path, codec):
    """What is computed while a shard is written is what is read: sizes, SHA-256, places, CRC-32,
    and the labels of each clip.
    """
    assert run(audio_folder / "manifest.csv", tmp_path / "out", "--codec", codec)[0] == 0
    made = Pack(tmp_path / "out")
    files = {file.name: file.read_bytes() for file in (tmp_path / "out").glob("[!.]*") if file.name != "pack.json"}
    described = {name: {"size": len(content), "sha256": sha256(content).hexdigest()} for name, content in files.items()}
    assert made.about["files"] == described and len(described) == 5
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as archive:
        members = {member.name: (member.offset_data, archive.extractfile(member).read()) for member in archive}
    for row, labels in zip(rows(tmp_path / "out" / "index.csv"), made.labels(), strict=True):
        place, content = members[row["key"]]
        assert (int(row["offset"]), int(row["size"]), int(row["crc32"])) == (place, len(content), crc32(content))
        assert labels == json.loads(members[row["key"].replace(codec, "json")][1])
    assert [labels["path"] for labels in made.labels()] == ["long.flac"] * 3 + ["crow.flac"]


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


def alive(group: int) -> bool:
    """Whether any process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


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
    with pytest.raises(ValueError, match=r"pack.json is damaged, or not of format 1 or 2"):
        Pack(tmp_path)
    code, output = run(audio_folder / "manifest.csv", "https://host/pack")
    assert code == 1 and "is made in a local folder" in output


def test_what_a_killed_process_left_is_not_foreign(audio_folder, tmp_path):
    (tmp_path / "..pack.json.tmp").write_text("{")
    assert run(audio_folder / "manifest.csv", tmp_path)[0] == 0


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
    command = ["pack", *(tmp_path / f"{n:02d}.flac" for n in range(24))]
    process = forked.start(*command, folders["parts"], *settings)
    forked.wait_until(lambda: len(list(folders["parts"].glob(".shard-*.json"))) >= 2, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 120
    while alive(process.pid) and time.monotonic() < deadline:  # its workers notice that it is gone
        time.sleep(0.02)
    assert not alive(process.pid)
    finished = {part: part.stat().st_mtime_ns for part in folders["parts"].glob("shard-*.tar")}
    with pytest.raises(ValueError, match="is not a finished pack"):
        Pack(folders["parts"])
    for folder in folders.values():
        done = forked.run(*command, folder, *settings)
        assert done.returncode == 0 and "72 clips" in done.stdout, done.stderr
    assert sum(part.stat().st_mtime_ns == when for part, when in finished.items()) >= 2  # not made again
    contents = [{file.name: file.read_bytes() for file in folder.glob("[!.]*")} for folder in folders.values()]
    assert contents[0] == contents[1] and 0 < len(finished) < len(contents[0]) - 4 == 6


def test_a_pack_is_of_its_sources(audio_folder, tmp_path):
    assert run(audio_folder / "manifest.csv", tmp_path / "out")[0] == 0
    before = (tmp_path / "out" / "pack.json").stat().st_mtime_ns
    assert run(audio_folder / "manifest.csv", tmp_path / "out")[0] == 0  # there is nothing to do
    assert (tmp_path / "out" / "pack.json").stat().st_mtime_ns == before
    for other in ([audio_folder], [audio_folder / "manifest.csv", "--codec", "opus"]):
        code, output = run(*other[:1], tmp_path / "out", *other[1:])
        assert code == 1 and "holds a pack of other sources or settings" in output
