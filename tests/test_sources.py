"""Folders, manifests and shards, here and on a server, damaged, failing."""

import errno
import io
import json
import os
import tarfile
from datetime import datetime
from pathlib import Path
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from file_server import FileServer
from fsspec.implementations.local import LocalFileSystem
from reference import AUDIO

from hear_mwmae import HearMwmaeError
from hear_mwmae.audio import read_audio
from hear_mwmae.data.sources import Recording, find_inputs, read_item

CROW, PIANO = ((AUDIO / name).read_bytes() for name in ("crow.wav", "piano.flac"))


def recordings(*sources: object) -> list[Recording]:
    """What all sources hold; none of them may be missing."""
    found = find_inputs([str(source) for source in sources])
    found.check()
    return [recording for item in found.items for recording in read_item(item, 16000)]


def problems(found: list[Recording]) -> dict[str, str]:
    return {recording.name: recording.problem for recording in found if recording.problem}


def write_tar(path: Path, contents: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in contents:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def audioset_parquet(path: Path) -> None:
    """As the Hub has it: `audio` a struct of the file's bytes and path, beside labels."""
    contents = [CROW, PIANO, b"broken", None]
    audio = [
        {"bytes": content, "path": f"{number}.flac"} for number, content in enumerate(contents)
    ]
    labels = {"video_id": list("abcd"), "kind": ["youtube"] * 4}
    times = {"heard": [datetime(2020, 1, 1)] * 4}  # what JSON cannot hold is left out
    pq.write_table(pa.table({**labels, **times, "audio": audio}), path)


def audioset_tar(path: Path) -> None:
    """Seconds in a name are usual among AudioSet's clips."""
    labels = json.dumps({"label": [0], "kind": "youtube"}).encode()
    contents = {"--0a_30.000_40.000.wav": CROW, "--0a_30.000_40.000.json": labels}
    contents |= {"--1.flac": PIANO, "--1.json": labels, "text.txt": b"no audio"}
    write_tar(path, list(contents.items()))


@pytest.mark.parametrize("shard", [audioset_parquet, audioset_tar])
def test_shards_on_a_server(tmp_path, shard):
    suffix = ".tar" if shard is audioset_tar else ".parquet"
    for number in range(2):
        shard(tmp_path / f"train-{number}{suffix}")
    with FileServer(tmp_path) as server:
        found = recordings(f"{server.url}/train-{{0..1}}{suffix}")
    good = [recording for recording in found if not recording.problem]
    assert len(good) == 4 and len(found) == (6 if shard is audioset_tar else 8)
    for recording in good[::2]:
        assert torch.equal(recording.waveform, read_audio(AUDIO / "crow.wav", 16000))
        kept = {"label": [0]} if shard is audioset_tar else {"video_id": "a"}
        assert recording.about.items() >= (kept | {"kind": "youtube"}).items()
        assert not {"heard", "audio"} & recording.about.keys()
    assert good[0].member == ("--0a_30.000_40.000.wav" if shard is audioset_tar else "0.flac")


def test_an_item_knows_its_version(tmp_path):
    """So that one that changes is embedded again."""
    audioset_tar(tmp_path / "a.tar")
    (tmp_path / "a.wav").write_bytes(CROW)
    (tmp_path / "list.csv").write_text("path\na.wav\ngone.wav\n")
    sources = [str(tmp_path / name) for name in ("a.tar", "a.wav", "list.csv")]
    before = [item.identity for item in find_inputs([*sources, sources[1]]).items]
    assert len(before) == 4  # one that is listed twice is there once
    assert before == [item.identity for item in find_inputs(sources).items]
    for name in ("a.tar", "a.wav"):
        os.utime(tmp_path / name, ns=(1, 1))
    after = [item.identity for item in find_inputs(sources).items]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False] * 3 + [True]
    with FileServer(tmp_path) as server:
        server.etags["/a.tar"] = "one"
        (one,) = find_inputs([f"{server.url}/a.tar"]).items
        server.etags["/a.tar"] = "two"
        (two,) = find_inputs([f"{server.url}/a.tar"]).items
    assert one.version == "one" and two.version == "two"


def test_a_shard_that_is_cut_short_gives_what_it_has(tmp_path):
    write_tar(tmp_path / "train.tar", [("a.wav", CROW), ("b.wav", CROW), ("c.flac", PIANO)])
    content = (tmp_path / "train.tar").read_bytes()
    (tmp_path / "train.tar").write_bytes(content[: -len(PIANO)])
    first, end = recordings(tmp_path / "train.tar")
    assert first.member == "a.wav" and "damaged, what follows is lost" in end.problem


def test_a_server_or_disk_that_fails_is_no_damage(tmp_path, monkeypatch):
    """A later run would find the shard, so what is embedded of it is not dropped."""
    audioset_tar(tmp_path / "0.tar")
    with FileServer(tmp_path) as server:
        (shard,) = find_inputs([f"{server.url}/0.tar"]).items
        server.cuts["/0.tar"] = 100
        with pytest.raises(HearMwmaeError, match=r"0.tar cannot be read: .*not complete"):
            list(read_item(shard, 16000))
        server.broken = True
        with pytest.raises(HearMwmaeError, match=r"0.tar cannot be listed: .*503"):
            find_inputs([f"{server.url}/0.tar"])
    stale = OSError(errno.ESTALE, "Stale file handle")
    monkeypatch.setattr(LocalFileSystem, "info", Mock(side_effect=stale))
    with pytest.raises(HearMwmaeError, match="cannot be listed: Stale file handle"):
        find_inputs([str(tmp_path / "0.tar")])


def test_hidden_members_are_skipped(tmp_path):
    """macOS adds them to archives. What holds no audio is listed, and what is there twice is read
    twice: `tar -r` appends files again.
    """
    names = ("./a.wav", "./._a.wav", "__MACOSX/a.wav", ".git/b.wav", "./A.wav", "sub/c.wav")
    contents = [(name, CROW) for name in (*names, "sub/c.wav", "./a.wav")]
    write_tar(tmp_path / "a.tar", [*contents, ("text.txt", b"no audio")])
    (tmp_path / "train.tar").symlink_to("a.tar")
    found = recordings(tmp_path / "train.tar")
    members = [recording.member for recording in found[:-1]]
    assert members == ["./a.wav", "./A.wav", "sub/c.wav", "sub/c.wav", "./a.wav"]
    assert problems(found) == {f"{tmp_path}/train.tar text.txt": "holds no audio"}


@pytest.mark.parametrize("place", ["page", "footer", "all"])
def test_a_damaged_parquet_shard_does_not_stop_the_others(tmp_path, place):
    for name in ("a", "b"):
        audioset_parquet(tmp_path / f"{name}.parquet")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    start = {"page": 4, "footer": len(content) - 300, "all": 0}[place]
    content[start : start + 30 if place != "all" else None] = b"\xff" * 30
    (tmp_path / "a.parquet").write_bytes(content)
    found = recordings(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert sum(recording.waveform is not None for recording in found) == 2
    assert "damaged, what follows is lost" in problems(found)[str(tmp_path / "a.parquet")]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("file,kind\ncrow.flac,effects\n", "has no column path"),
        ("path,kind\n", "lists no audio"),
        ("kind,path\neffects\n", "row 2 names no path"),
        ("path\na\0.wav\n", "row 2 names no path"),
        ('path,kind\n"' + "x" * 200_000, "cannot be read as a CSV"),
    ],
)
def test_bad_manifests(tmp_path, manifest, message):
    (tmp_path / "manifest.csv").write_text(manifest)
    with pytest.raises(HearMwmaeError, match=message):
        recordings(tmp_path / "manifest.csv")


@pytest.mark.parametrize(
    "source", ["none.tar", "none-*.tar", "none", "none.csv", "none{0..3.tar", "some://none.tar"]
)
def test_sources_that_are_not_there(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HearMwmaeError, match="none"):
        recordings(source)


def test_names_that_no_file_can_have_do_not_stop_the_others(tmp_path):
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    names = ["loop.wav", "pipe.wav", f"{'x' * 300}.wav", "list.csv", str(AUDIO / "crow.wav")]
    (tmp_path / "list.csv").write_text("path\n" + "\n".join(names))
    found = recordings(tmp_path / "list.csv")
    assert len(problems(found)) == 4 and found[-1].waveform is not None
