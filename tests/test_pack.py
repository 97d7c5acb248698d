"""Reading packs: from disks and servers, of older formats, damaged, incomplete, by processes that
are killed.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from click.testing import CliRunner
from file_server import FileServer
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from packing import rows
from tiny_run import write_recipe

from hear_mwmae.cli import main
from hear_mwmae.data import shards
from hear_mwmae.data.crops import Batch, Clips, StepSampler, read_batches, worker_errors
from hear_mwmae.data.pack import BadRecord, Pack
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.training.loop import pretrain
from hear_mwmae.training.recipe import Recipe


def batches_of(pack: Pack, recipe: Recipe) -> tuple[Callable[..., Iterator[Batch]], StepSampler]:
    """A function of first and last step and workers, and what it draws by."""
    sampler = StepSampler(pack, recipe)
    clips = Clips(pack, sampler.numbers)
    return lambda first, last, workers=0: read_batches(clips, sampler.steps(first, last), workers), sampler


def test_a_pack_on_a_server(data, tmp_path, monkeypatch):
    """Only what is wanted of it is asked for; a server that fails for a while is asked again."""
    monkeypatch.setattr(shards, "PATIENCE", 0.01)
    recipe = Recipe.read(write_recipe(tmp_path / "recipe.toml"))
    here, _ = batches_of(Pack(data), recipe)
    expected = list(here(0, 3))
    with FileServer(data) as server:
        there, _ = batches_of(Pack(server.url), recipe)
        server.failures = 2
        for batch, same in zip(there(0, 3), expected, strict=True):
            assert np.array_equal(batch.audio, same.audio)
        assert all(wanted for path, wanted in server.asked if path.endswith(".tar"))
        for batch in there(0, 1, workers=1):  # a worker makes its own connection
            assert np.array_equal(batch.audio, expected[0].audio)
        server.failures = 100
        with pytest.raises(ValueError, match="cannot be read after 4 attempts"):
            next(there(0, 1))
        server.failures, server.silent = 0, True
        monkeypatch.setattr(shards, "SILENT_SECONDS", 0.2)
        began = time.monotonic()
        with pytest.raises(HearMwmaeError, match="cannot be read after 4 attempts"):
            Pack(server.url)
        assert time.monotonic() - began < 30
        server.silent, server.ranges = False, False
        with pytest.raises(ValueError, match="no range requests"):
            next(there(0, 1))
    with FileServer(tmp_path) as empty, pytest.raises(ValueError, match="is not a finished pack of audio"):
        Pack(empty.url)


def test_a_file_system_without_ranges_of_its_own_reads_no_more_than_a_clip(data, tmp_path):
    """As the Hub's: reading by way of an open file, it would fetch megabytes ahead."""
    read = []

    class Slow(MemoryFileSystem):
        protocol = "slow"
        cat_file = AbstractFileSystem.cat_file

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return "/" + path.removeprefix("slow://").strip("/")

        def _open(self, path: str, mode: str = "rb", cache_type: str = "readahead", **kwargs: object) -> object:
            read.append((path.rpartition("/")[2], cache_type))
            return super()._open(path, mode, **kwargs)

    fsspec.register_implementation("slow", Slow, clobber=True)
    for file in data.glob("[!.]*"):
        Slow().pipe_file(f"/pack/{file.name}", file.read_bytes())
    read.clear()
    pack = Pack("slow://pack")
    assert np.array_equal(pack.read(1), Pack(data).read(1))
    assert read[-1] == ("shard-000000.tar", "none")


def test_a_worker_that_is_killed(data, tmp_path):
    batches, _ = batches_of(Pack(data), Recipe.read(write_recipe(tmp_path / "recipe.toml")))
    ahead = batches(0, 1000, workers=1)
    next(ahead)
    # torch tells of it by an exception out of a signal handler, wherever the main thread is: here,
    # or waiting for a batch.
    with pytest.raises(HearMwmaeError, match="process that reads audio has ended"), worker_errors():
        for worker in multiprocessing.active_children():
            worker.kill()
        for _ in ahead:
            pass


@pytest.fixture
def damaged(data, tmp_path) -> Path:
    """A pack whose second clip has another byte in it."""
    folder = shutil.copytree(data, tmp_path / "damaged")
    content = bytearray((folder / "shard-000000.tar").read_bytes())
    content[Pack(data).clips["offset"][1] + 5000] ^= 1
    (folder / "shard-000000.tar").write_bytes(content)
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_clip_is_counted_and_passed_over(damaged, tmp_path, workers):
    pack = Pack(damaged)
    with pytest.raises(BadRecord, match="its bytes are not those that were packed"):
        pack.read(1)
    recipe = Recipe.read(write_recipe(tmp_path / "recipe.toml"), ["kinds={notes = 1.0}", f"workers={workers}"])
    batches, sampler = batches_of(pack, recipe)
    (batch,) = batches(0, 1, workers)
    picked = [draw.clip for draw in sampler[0]]
    expected = np.concatenate([pack.read(2 if pick == 1 else pick) for pick in picked])
    assert batch.bad == [pick == 1 for pick in picked] and any(batch.bad) and np.array_equal(batch.audio, expected)
    pretrain(recipe, damaged, tmp_path / "run")
    log = rows(tmp_path / "run" / "log.csv")
    counts = [int(row["bad_clips"]) for row in log]
    assert len(log) == 12 and counts[0] == sum(batch.bad) and counts == sorted(counts) and counts[-1] > counts[0]


def test_a_pack_that_cannot_be_read_at_all(data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "damaged")
    size = (folder / "shard-000000.tar").stat().st_size
    (folder / "shard-000000.tar").write_bytes(bytes(size))
    recipe = write_recipe(tmp_path / "recipe.toml")
    result = CliRunner().invoke(main, ["pretrain", str(recipe), str(folder), str(tmp_path / "run"), "--set", "workers=1"])
    assert result.exit_code == 1 and "100 clips in a row cannot be read" in result.output


@pytest.mark.parametrize("loss", ["gone", "short", "index"])
def test_a_pack_that_is_not_whole(data, tmp_path, loss):
    folder = shutil.copytree(data, tmp_path / "damaged")
    shard, index = folder / "shard-000000.tar", folder / "index.csv"
    if loss == "gone":
        shard.unlink()
    elif loss == "short":
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        index.write_text(index.read_text().replace("notes", "noted"))
    message = "index.csv is not what was packed" if loss == "index" else "lacks shard-000000.tar"
    result = CliRunner().invoke(main, ["pretrain", str(write_recipe(tmp_path / "r.toml")), str(folder), str(tmp_path / "run")])
    assert result.exit_code == 1 and message in result.output and result.output.count("\n") == 1


def test_a_shard_that_goes_while_a_run_goes_on(data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "pack")
    batches, _ = batches_of(Pack(folder), Recipe.read(write_recipe(tmp_path / "recipe.toml")))
    (folder / "shard-000000.tar").unlink()
    for workers in (0, 1):
        with pytest.raises(HearMwmaeError) as caught:
            next(batches(0, 1, workers))
        assert str(caught.value) == f"{folder} lacks shard-000000.tar"  # and no traceback of a worker
    assert not multiprocessing.active_children()  # even while the error is there


def test_an_empty_pack_description(tmp_path):
    (tmp_path / "pack.json").write_text("{}")
    with pytest.raises(ValueError, match="not of format 1 or 2"):
        Pack(tmp_path)


def test_a_pack_of_format_1(data, tmp_path):
    """It has the same index, by which a run knows its data, so that the run goes on."""
    old = shutil.copytree(data, tmp_path / "old")
    (old / "labels.jsonl").unlink()
    about = json.loads((old / "pack.json").read_text()) | {"format": 1}
    del about["files"]["labels.jsonl"]
    (old / "pack.json").write_text(json.dumps(about))
    assert Pack(old).identity == Pack(data).identity
    recipe = Recipe.read(write_recipe(tmp_path / "recipe.toml"))
    pretrain(recipe, old, tmp_path / "run")
    pretrain(Recipe.read(tmp_path / "recipe.toml", ["steps=14"]), data, tmp_path / "run")
    assert len(rows(tmp_path / "run" / "log.csv")) == 14


def test_labels_that_were_changed(data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "changed")
    (folder / "labels.jsonl").write_text((folder / "labels.jsonl").read_text().replace("CC0", "CC1"))
    with pytest.raises(HearMwmaeError, match=r"labels.jsonl is not what was packed"):
        list(Pack(folder).labels())
