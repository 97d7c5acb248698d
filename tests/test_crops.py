"""Batches of a pack: which clips and crops, by how many processes, at what speeds, streamed and
resident.
"""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from tiny_run import losses, tiny_recipe, write_recipe

from hear_mwmae import HearMwmaeError
from hear_mwmae.config import FrontendConfig
from hear_mwmae.data import crops as crops_module
from hear_mwmae.data.crops import (
    Batch,
    Clips,
    ResidentClips,
    StepSampler,
    collate,
    log_mel_crops,
    play,
    played_length,
    read_batches,
)
from hear_mwmae.data.pack import Pack
from hear_mwmae.frontend import LogMelFrontend, normalise
from hear_mwmae.training.loop import pretrain
from hear_mwmae.training.recipe import Recipe


def read(pack: Pack, recipe: Recipe, step: int, rank: int = 0, world: int = 1) -> Batch:
    """What a process reads for a step."""
    sampler = StepSampler(pack, recipe, rank, world)
    return collate(map(Clips(pack, sampler.numbers).__getitem__, sampler[step]))


def crops(pack: Pack, recipe: Recipe, step: int, rank: int = 0, world: int = 1) -> torch.Tensor:
    """(B, 200, 80) of a step."""
    return log_mel_crops(LogMelFrontend(FrontendConfig()), read(pack, recipe, step, rank, world), 200)


def picked(pack: Pack, recipe: Recipe, step: int) -> list[int]:
    """The clips of a step."""
    return [draw.clip for draw in StepSampler(pack, recipe)[step]]


def recipe_of(folder: Path, kinds: str = "{notes = 0.5, effects = 0.5}", **changes: object) -> Recipe:
    return Recipe.read(write_recipe(folder / "recipe.toml", **changes), [f"kinds={kinds}"])


def test_crops_are_those_of_the_frontend(data, audio_folder, tmp_path):
    """Of the log-mel of a whole clip, normalised as a whole: ten seconds of a longer recording are
    such a clip.
    """
    audio, _ = soundfile.read(audio_folder / "long.flac", dtype="float32")
    frontend = LogMelFrontend(FrontendConfig())
    features = [normalise(frontend.log_mel(torch.from_numpy(audio[s : s + 160000])[None]), False)[0] for s in (0, 160000, 320000)]
    pack, recipe = Pack(data), recipe_of(tmp_path, "{notes = 1.0}")
    for draw, crop in zip(StepSampler(pack, recipe)[0], crops(pack, recipe, 0), strict=True):
        assert torch.allclose(crop, features[draw.clip][draw.start : draw.start + 200], atol=1e-5)


@pytest.mark.parametrize("kinds", ["{notes = 0.5, effects = 0.5}", "{}"])
def test_batches_are_functions_of_seed_and_step(data, tmp_path, kinds):
    pack = Pack(data)
    one, two = (recipe_of(tmp_path, kinds, seed=seed) for seed in (1, 2))
    third = crops(pack, one, 3)
    assert third.shape == (8, 200, 80) and third.dtype == torch.float32
    assert torch.equal(third, crops(pack, one, 3))
    assert not torch.equal(third, crops(pack, one, 4)) and not torch.equal(third, crops(pack, two, 3))
    for rank in range(2):  # equal up to the rounding of products of other sizes
        assert torch.allclose(crops(pack, one, 3, rank, 2), third[rank::2], atol=1e-5)


@pytest.mark.parametrize(
    ("kinds", "semitones", "clips", "starts"),
    [
        ("{notes = 0.5, effects = 0.5}", 0.0, [3, 3, 1, 1, 1, 3, 1, 3], [0, 0, 166, 51, 708, 0, 132, 0]),
        ("{notes = 0.5, effects = 0.5}", 4.0, [3, 3, 1, 1, 1, 3, 1, 3], [0, 0, 415, 241, 212, 0, 196, 0]),
        ("{}", 0.0, [3, 2, 1, 0, 1, 3, 2, 0], [0, 324, 717, 765, 690, 0, 449, 257]),
    ],
)
def test_what_is_drawn_for_a_step_stays_what_it_is(data, tmp_path, kinds, semitones, clips, starts):
    """A run in progress goes on with the draws of the version that it began with: with these, of
    seed 0 and step 3.
    """
    draws = StepSampler(Pack(data), recipe_of(tmp_path, kinds, semitones=semitones))[3]
    assert ([draw.clip for draw in draws], [draw.start for draw in draws]) == (clips, starts)


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_read_the_same(data, tmp_path, workers):
    pack, recipe = Pack(data), recipe_of(tmp_path)
    sampler = StepSampler(pack, recipe)
    state = torch.get_rng_state()
    ahead = read_batches(Clips(pack, sampler.numbers), sampler.steps(2, 9), workers)
    for step, batch in zip(range(2, 9), ahead, strict=True):
        here = read(pack, recipe, step)
        assert torch.equal(batch.audio, here.audio) and batch.starts == here.starts
    assert torch.equal(state, torch.get_rng_state())


def test_without_kinds_every_clip_comes_once_per_epoch(data, tmp_path):
    pack, recipe = Pack(data), recipe_of(tmp_path, "{}", batch_size=6)
    drawn = [clip for step in range(4) for clip in picked(pack, recipe, step)]  # 4 clips: six epochs in four batches
    epochs = [drawn[start : start + 4] for start in range(0, 24, 4)]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) > 1
    assert picked(pack, recipe, 1) == drawn[6:12]  # out of order, too


def test_a_fraction_of_the_data(data, tmp_path):
    pack = Pack(data)
    chosen = {tuple(StepSampler(pack, recipe_of(tmp_path, "{}", seed=s, data_fraction=0.5)).numbers) for s in range(6)}
    assert {len(numbers) for numbers in chosen} == {2} and len(chosen) > 1


def test_short_clips_are_reflected_and_shares_kept(data, tmp_path):
    pack = Pack(data)
    (crow,) = np.flatnonzero(pack.clips["kind"] == pack.kinds.index("effects"))
    audio = torch.from_numpy(pack.read(crow)).float() / 32768
    frames = normalise(LogMelFrontend(FrontendConfig()).log_mel(audio[None]), unbiased=False)[0]
    crop = crops(pack, recipe_of(tmp_path, "{effects = 1.0}"), 0)[0]
    assert len(frames) < 200 and torch.allclose(crop[: len(frames)], frames, atol=1e-5)
    assert torch.equal(crop[len(frames)], crop[len(frames) - 2])
    many = picked(pack, recipe_of(tmp_path, "{notes = 0.25, effects = 0.75}", batch_size=1000), 0)
    assert 0.7 < np.mean(np.array(many) == crow) < 0.8


def test_clips_at_other_speeds(data, tmp_path):
    """A clip at twice the speed is half as long and an octave higher; which speed is a matter of
    seed and step.
    """
    wave = (8000 * np.sin(2 * np.pi * 500 * np.arange(16000) / 16000)).astype(np.int16)
    for speed, hertz in ((Fraction(2), 1000), (Fraction(3, 4), 375)):
        played = play(wave, speed)
        assert len(played) == played_length(len(wave), speed) and played.dtype == np.int16
        assert np.argmax(np.abs(np.fft.rfft(played, 16000))) == hertz
    assert play(wave, Fraction(1)) is wave
    pack = Pack(data)
    recipe = recipe_of(tmp_path, semitones=4.0, batch_size=8)
    whole, halves = read(pack, recipe, 5), [read(pack, recipe, 5, rank, 2) for rank in range(2)]
    assert whole.lengths[::2] == halves[0].lengths and whole.starts[1::2] == halves[1].starts
    ratios = pack.clips["samples"][picked(pack, recipe, 5)] / whole.lengths
    assert 2 ** (-4.5 / 12) < ratios.min() < 1 < ratios.max() < 2 ** (4.5 / 12)


def test_kinds_that_are_not_there(data, tmp_path):
    with pytest.raises(ValueError, match=r"the pack has no clips of kind \['speech'\]; it has \['effects', 'notes'\]"):
        StepSampler(Pack(data), recipe_of(tmp_path, "{speech = 1.0}"))
    recipe = Recipe.read("mwmae-tiny-cpu", ["kinds={}", "batch_size=4"])  # as the message says
    assert sorted(picked(Pack(data), recipe, 0)) == [0, 1, 2, 3]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("changes", [{}, {"semitones": 4.0}, {"kinds": {}, "data_fraction": 0.75}])
def test_resident_clips_make_the_same_crops(data, tmp_path, changes, workers):
    """To the bit: of long and short clips, at any speeds, whole batches and shares of two
    processes.
    """
    pack, recipe, frontend = Pack(data), tiny_recipe(tmp_path, **changes), LogMelFrontend(FrontendConfig())
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        sampler = StepSampler(pack, recipe, rank, world)
        clips = Clips(pack, sampler.numbers)
        resident = ResidentClips(clips, torch.device("cpu"), workers)
        assert len(resident.audio) == pack.clips["samples"][sampler.numbers].sum()
        pairs = zip(*(read_batches(way, sampler.steps(0, 4), 0) for way in (clips, resident)), strict=True)
        for one, other in pairs:
            assert torch.equal(one.audio, other.audio) and one[1:] == other[1:]
            assert torch.equal(log_mel_crops(frontend, one, 200), log_mel_crops(frontend, other, 200))


@pytest.fixture
def damaged(data, tmp_path) -> Path:
    """A pack whose second and third clips cannot be read."""
    folder = shutil.copytree(data, tmp_path / "damaged")
    content = bytearray((folder / "shard-000000.tar").read_bytes())
    for offset in Pack(data).clips["offset"][1:3]:
        content[offset + 5000] ^= 1
    (folder / "shard-000000.tar").write_bytes(content)
    return folder


def test_resident_clips_replace_what_cannot_be_read(damaged, tmp_path):
    """And count it, whenever it is drawn, as reading does."""
    pack, recipe = Pack(damaged), tiny_recipe(tmp_path, kinds={"notes": 1.0}, semitones=2.0)
    sampler = StepSampler(pack, recipe)
    clips = Clips(pack, sampler.numbers)
    ways = (read_batches(way, sampler.steps(0, 3), 0) for way in (clips, ResidentClips(clips, torch.device("cpu"), 1)))
    for one, other in zip(*ways, strict=True):
        assert torch.equal(one.audio, other.audio) and one[1:] == other[1:] and {0, 1, 2} >= set(one.bad) > {0}


def test_a_resident_run_is_the_streamed_one(data, tmp_path):
    """Also where one goes on with the other's checkpoint."""
    pretrain(tiny_recipe(tmp_path), data, tmp_path / "streamed", look_every=6)
    pretrain(tiny_recipe(tmp_path, resident=True, workers=1), data, tmp_path / "resident", look_every=6)
    assert losses(tmp_path / "resident") == losses(tmp_path / "streamed")
    pretrain(tiny_recipe(tmp_path, resident=True, steps=14), data, tmp_path / "streamed")
    assert len(losses(tmp_path / "streamed")) == 14


def test_too_little_memory_for_a_resident_pack(data, tmp_path, monkeypatch):
    monkeypatch.setattr(crops_module.psutil, "virtual_memory", lambda: SimpleNamespace(available=900_000))
    message = r"resident = true needs 0\.00 GB on cpu for the pack's samples, where 0\.00 GB are free: .*resident = false"
    with pytest.raises(HearMwmaeError, match=message):
        pretrain(tiny_recipe(tmp_path, resident=True), data, tmp_path / "run")
