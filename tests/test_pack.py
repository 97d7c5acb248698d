"""Data sets of audio: made from folders and manifests, read from a folder and from the Hub."""

import io
import json
import os
import shutil
import signal

import datasets
import forked
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import webdataset
from file_server import FileServer
from filelock import FileLock
from packing import change_clips, damage_clip, rows, run
from reference import AUDIO

from hear_mwmae.audio import read_audio
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.training import dataset as dataset_module
from hear_mwmae.training.dataset import AudioDataset


def test_what_was_16_bit_is_packed_as_it_was(data, audio_folder):
    pcm, _ = soundfile.read(audio_folder / "long.flac", dtype="int16")
    made = AudioDataset(data)
    assert np.array_equal(np.concatenate([made[number] for number in range(3)]), pcm)
    assert made.samples.tolist()[:3] == [160000, 160000, len(pcm) - 320000]
    assert [made.kinds[kind] for kind in made.kind_of] == ["notes", "notes", "notes", "effects"]
    silence = {"source": str(audio_folder / "silence.flac"), "reason": "silence from second 0 on"}
    assert rows(data / "skipped.csv") == [silence]


def test_any_tool_reads_it(data):
    """By `datasets` alone; what the manifest says of a recording is with its clips."""
    made = datasets.load_from_disk(str(data))
    assert made.features["audio"] == datasets.Audio(sampling_rate=16000, decode=False)
    second = made[1]
    assert soundfile.info(io.BytesIO(second["audio"]["bytes"])).frames == 160000
    said = {"kind": "notes", "start": 10.0, "samples": 160000, "licence": "CC0-1.0"}
    assert second.items() >= said.items() and second["path"].endswith("long.flac")


def test_loud_opus_does_not_wrap_around(tmp_path):
    """Opus overshoots full scale; in 16 bits that must be clipped."""
    square = np.sign(np.sin(2 * np.pi * 220 * np.arange(160000) / 16000))
    soundfile.write(tmp_path / "loud.flac", square * 0.9999, 16000)
    assert run("--codec", "opus", tmp_path / "loud.flac", tmp_path / "opus")[0] == 0
    decoded = AudioDataset(tmp_path / "opus")[0].numpy() / 32768
    assert np.mean(np.sign(decoded) != square) < 0.02 and np.abs(decoded - square).max() < 1.3


def test_loud_floats_keep_their_shape(tmp_path):
    """What goes beyond full scale is scaled to it, not clipped."""
    audio = (3 * np.sin(np.arange(32000) / 9)).astype(np.float32)
    soundfile.write(tmp_path / "loud.wav", audio, 16000, subtype="FLOAT")
    assert run(tmp_path / "loud.wav", tmp_path / "out")[0] == 0
    packed = AudioDataset(tmp_path / "out")[0].numpy() / 32768
    assert np.abs(packed - audio / np.abs(audio).max()).max() < 1e-4


def test_a_folder_of_any_audio(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name, place in (("glass.mp3", "a.mp3"), ("till.opus", "sub/b.opus")):
        shutil.copy(AUDIO / name, tmp_path / "in" / place)
    (tmp_path / "in" / "c.wav").write_bytes(b"RIFF, but no more")
    code, output = run("--kind", "noises", tmp_path / "in", tmp_path / "out")
    assert code == 0 and "2 clips" in output and "1 skipped" in output
    made = AudioDataset(tmp_path / "out")
    assert made.kinds == ["noises"]
    lengths = [len(read_audio(AUDIO / name, 16000)) for name in ("glass.mp3", "till.opus")]
    assert made.samples.tolist() == lengths
    (skipped,) = rows(tmp_path / "out" / "skipped.csv")
    assert skipped["source"] == str(tmp_path / "in" / "c.wav") and skipped["reason"]


def test_a_folder_that_exists_is_left_alone(audio_folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    code, output = run(audio_folder / "manifest.csv", tmp_path / "out")
    assert code == 1 and "out exists: give another folder" in output
    with FileLock(tmp_path / ".new.lock"):
        code, output = run(audio_folder / "manifest.csv", tmp_path / "new")
    assert code == 1 and "another process is packing" in output


def test_columns_of_manifests(audio_folder, tmp_path):
    """Those of all; an empty kind is none; a spreadsheet's mark at the beginning does no harm."""
    shutil.copy(audio_folder / "crow.flac", tmp_path)
    (tmp_path / "a.csv").write_text("\ufeffpath,kind,licence\ncrow.flac,,CC0\ncrow.flac,birds,\n")
    (tmp_path / "b.csv").write_text("path,hours\ncrow.flac,0.1\n")
    code, output = run("--kind", "noises", tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "out")
    assert code == 0, output
    made = datasets.load_from_disk(str(tmp_path / "out"))
    assert made["kind"][:] == ["noises", "birds", "noises"]
    assert made["licence"][:] == ["CC0", None, None] and made["hours"][:] == [None, None, "0.1"]


def test_shards(tmp_path):
    """Their labels are columns, of one type or of text; one that cannot be had stops no other."""
    crow = (AUDIO / "crow.wav").read_bytes()
    with webdataset.TarWriter(str(tmp_path / "a.tar"), encoder=False) as writer:
        for number, label in enumerate(({"score": 1, "tag": 2}, {"score": 3, "tag": "x"})):
            labels = json.dumps({"kind": "birds", **label}).encode()
            writer.write({"__key__": f"clip{number}", "wav": crow, "json": labels})
    shutil.copy(tmp_path / "a.tar", tmp_path / "b.tar")
    table = {"audio": [{"bytes": crow, "path": "c.wav"}], "score": [4]}
    pq.write_table(pa.table(table), tmp_path / "c.parquet")
    with FileServer(tmp_path) as server:
        server.cuts["/b.tar"] = 100
        sources = (f"{server.url}/{name}" for name in ("a.tar", "b.tar", "c.parquet"))
        code, output = run(*sources, tmp_path / "out")
    assert code == 0 and "3 clips" in output and "1 skipped" in output, output
    made = datasets.load_from_disk(str(tmp_path / "out"))
    assert made["kind"][:] == ["birds", "birds", "audio"] and made["score"][:] == [1, 3, 4]
    assert made["tag"][:] == ["2", "x", None]
    assert made["path"][:] == ["clip0.wav", "clip1.wav", "c.wav"]
    (skipped,) = rows(tmp_path / "out" / "skipped.csv")
    assert "b.tar" in skipped["source"] and "cannot be read" in skipped["reason"]


def test_an_interrupted_pack_starts_again(audio_folder, tmp_path):
    for number in range(12):
        shutil.copy(audio_folder / "long.flac", tmp_path / f"{number:02d}.flac")
    command = ["pack", *sorted(tmp_path.glob("*.flac")), "--out", tmp_path / "out", "--jobs", "2"]
    process = forked.start(*command)
    process.wait_until((tmp_path / ".out.tmp").exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.tmp").exists()
    done = forked.run(*command)
    assert done.returncode == 0 and "36 clips" in done.stdout, done.stderr
    paths = datasets.load_from_disk(str(tmp_path / "out"))["path"][:]
    assert len(paths) == 36 and paths == sorted(paths)  # as the sources are, by two processes, too
    assert not (tmp_path / ".out.tmp").exists()


def test_the_identity_is_that_of_the_audio(data, tmp_path):
    """Not of the folder, nor of labels that training does not read."""
    relabelled = change_clips(data, tmp_path / "a", lambda row, _: row | {"licence": "CC1"})
    assert AudioDataset(relabelled).identity() == AudioDataset(data).identity()
    other_kind = change_clips(data, tmp_path / "b", lambda row, _: row | {"kind": "x"})
    assert AudioDataset(other_kind).identity() != AudioDataset(data).identity()
    damaged = damage_clip(data, tmp_path / "c", 3)
    assert AudioDataset(damaged).identity() != AudioDataset(data).identity()


def test_a_clip_of_another_length_than_its_row(data, tmp_path):
    longer = change_clips(data, tmp_path / "b", lambda row, _: row | {"samples": 5})
    with pytest.raises(HearMwmaeError, match=r"clip 0 .*, not 5"):
        AudioDataset(longer)[0]


def test_folders_that_are_no_data_set(data, tmp_path):
    with pytest.raises(HearMwmaeError, match=r"no folder .*gone: `hear-mwmae pack`"):
        AudioDataset(tmp_path / "gone")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "text"))
    with pytest.raises(HearMwmaeError, match="has no column audio, kind, samples"):
        AudioDataset(tmp_path / "text")
    copy = shutil.copytree(data, tmp_path / "copy")
    (arrow,) = copy.glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(HearMwmaeError, match="copy cannot be read as a data set: "):
        AudioDataset(copy)


def test_a_data_set_of_the_hub(data, tmp_path, monkeypatch):
    """After the Hub's own form, Parquet files."""
    made = datasets.load_from_disk(str(data))
    made.to_parquet(str(tmp_path / "train.parquet"))
    asked = []

    def load_dataset(name: str, **options: object) -> datasets.Dataset:
        asked.append((name, options))
        return datasets.Dataset.from_parquet(
            str(tmp_path / "train.parquet"), cache_dir=str(tmp_path / "cache")
        )

    monkeypatch.setattr(dataset_module.datasets, "load_dataset", load_dataset)
    pulled = AudioDataset("org/clips@v2")
    assert asked == [("org/clips", {"revision": "v2", "split": "train"})]
    assert pulled.identity() == AudioDataset(data).identity()
    assert np.array_equal(pulled[3], AudioDataset(data)[3])
