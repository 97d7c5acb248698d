"""Reading packs: from disks and servers, damaged, incomplete, by processes that are killed."""

from __future__ import annotations

import multiprocessing
import shutil
import time
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
from hear_mwmae.data import sources
from hear_mwmae.data.crops import CropBatches, read_batches, worker_errors
from hear_mwmae.data.pack import BadRecord, Pack
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.training.loop import pretrain
from hear_mwmae.training.recipe import Recipe


def test_a_pack_on_a_server(data, tmp_path, monkeypatch):
    """Only what is wanted of it is asked for; a server that fails for a while is asked again."""
    monkeypatch.setattr(sources, "PATIENCE", 0.01)
    recipe = Recipe.read(write_recipe(tmp_path / "recipe.toml"))
    here = CropBatches(Pack(data), recipe)
    with FileServer(data) as server:
        there = CropBatches(Pack(server.url), recipe)
        server.failures = 2
        for step, batch in zip(range(3), read_batches(there, 0, 3, workers=0), strict=True):
            assert np.array_equal(batch.audio, here[step].audio)
        assert all(wanted for path, wanted in server.asked if path.endswith(".tar"))
        for batch in read_batches(there, 0, 1, workers=1):  # a worker makes its own connection
            assert np.array_equal(batch.audio, here[0].audio)
        server.failures = 100
        with pytest.raises(ValueError, match="cannot be read after 4 attempts"):
            next(read_batches(there, 0, 1, workers=0))
        server.failures, server.silent = 0, True
        monkeypatch.setattr(sources, "SILENT_SECONDS", 0.2)
        began = time.monotonic()
        with pytest.raises(HearMwmaeError, match="cannot be read after 4 attempts"):
            Pack(server.url)
        assert time.monotonic() - began < 30
        server.silent, server.ranges = False, False
        with pytest.raises(ValueError, match="no range requests"):
            next(read_batches(there, 0, 1, workers=0))
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
    batches = CropBatches(Pack(data), Recipe.read(write_recipe(tmp_path / "recipe.toml")))
    ahead = read_batches(batches, 0, 1000, workers=1)
    next(ahead)
    # torch tells of it by an exception out of a signal handler, wherever the main thread is: here, or waiting for a batch.
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
    batches = CropBatches(pack, recipe)
    (batch,) = read_batches(batches, 0, 1, workers)
    picked = batches.draw(0, np.random.default_rng([0, 0]))
    expected = np.concatenate([pack.read(2 if pick == 1 else pick) for pick in picked])
    assert batch.bad == np.sum(picked == 1) > 0 and np.array_equal(batch.audio, expected)
    pretrain(recipe, damaged, tmp_path / "run")
    log = rows(tmp_path / "run" / "log.csv")
    counts = [int(row["bad_clips"]) for row in log]
    assert len(log) == 12 and counts[0] == batch.bad and counts == sorted(counts) and counts[-1] > counts[0]


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
    batches = CropBatches(Pack(folder), Recipe.read(write_recipe(tmp_path / "recipe.toml")))
    (folder / "shard-000000.tar").unlink()
    with pytest.raises(ValueError, match=r"lacks shard-000000.tar"):
        next(read_batches(batches, 0, 1, workers=1))


def test_an_empty_pack_description(tmp_path):
    (tmp_path / "pack.json").write_text("{}")
    with pytest.raises(ValueError, match="not of format 1"):
        Pack(tmp_path)
