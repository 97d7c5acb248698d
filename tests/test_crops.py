"""Batches of a pack: which clips and crops, by how many processes, and at what speeds."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_run import write_recipe

from hear_mwmae.config import FrontendConfig
from hear_mwmae.data.crops import CropBatches, log_mel_crops, play, played_length, read_batches
from hear_mwmae.data.pack import Pack
from hear_mwmae.frontend import LogMelFrontend, normalise
from hear_mwmae.training.recipe import Recipe


def crops(batches: CropBatches, step: int) -> torch.Tensor:
    """(B, 200, 80) of a step."""
    return log_mel_crops(LogMelFrontend(FrontendConfig()), batches[step], 200)


def recipe_of(folder: Path, kinds: str = "{notes = 0.5, effects = 0.5}", **changes: object) -> Recipe:
    return Recipe.read(write_recipe(folder / "recipe.toml", **changes), [f"kinds={kinds}"])


def test_crops_are_those_of_the_frontend(data, audio_folder, tmp_path):
    """Of the log-mel of a whole clip, normalised as a whole: ten seconds of a longer recording are such a clip."""
    audio, _ = soundfile.read(audio_folder / "long.flac", dtype="float32")
    frontend = LogMelFrontend(FrontendConfig())
    features = [normalise(frontend.log_mel(torch.from_numpy(audio[s : s + 160000])[None]), False)[0] for s in (0, 160000, 320000)]
    batches = CropBatches(Pack(data), recipe_of(tmp_path, "{notes = 1.0}"))
    for start, picked, crop in zip(
        batches[0].starts, batches.draw(0, np.random.default_rng([0, 0])), crops(batches, 0), strict=True
    ):
        assert torch.allclose(crop, features[picked][start : start + 200], atol=1e-5)


@pytest.mark.parametrize("kinds", ["{notes = 0.5, effects = 0.5}", "{}"])
def test_batches_are_functions_of_seed_and_step(data, tmp_path, kinds):
    pack = Pack(data)
    one, two = (recipe_of(tmp_path, kinds, seed=seed) for seed in (1, 2))
    third = crops(CropBatches(pack, one), 3)
    assert third.shape == (8, 200, 80) and third.dtype == torch.float32
    assert torch.equal(third, crops(CropBatches(pack, one), 3))
    assert not torch.equal(third, crops(CropBatches(pack, one), 4)) and not torch.equal(third, crops(CropBatches(pack, two), 3))
    for rank in range(2):  # equal up to the rounding of products of other sizes
        assert torch.allclose(crops(CropBatches(pack, one, rank, 2), 3), third[rank::2], atol=1e-5)


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_read_the_same(data, tmp_path, workers):
    batches = CropBatches(Pack(data), recipe_of(tmp_path))
    state = torch.get_rng_state()
    for step, batch in zip(range(2, 9), read_batches(batches, 2, 9, workers), strict=True):
        assert torch.equal(batch.audio, batches[step].audio) and batch.starts == batches[step].starts
    assert torch.equal(state, torch.get_rng_state())


def test_without_kinds_every_clip_comes_once_per_epoch(data, tmp_path):
    batches = CropBatches(Pack(data), recipe_of(tmp_path, "{}", batch_size=6))
    drawn = [int(pick) for step in range(4) for pick in batches.draw(step, None)]  # 4 clips: six epochs in four batches
    epochs = [drawn[start : start + 4] for start in range(0, 24, 4)]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) > 1
    assert [int(pick) for pick in batches.draw(1, None)] == drawn[6:12]  # out of order, too


def test_a_fraction_of_the_data(data, tmp_path):
    pack = Pack(data)
    chosen = {tuple(CropBatches(pack, recipe_of(tmp_path, "{}", seed=s, data_fraction=0.5)).numbers) for s in range(6)}
    assert {len(numbers) for numbers in chosen} == {2} and len(chosen) > 1


def test_short_clips_are_reflected_and_shares_kept(data, tmp_path):
    pack = Pack(data)
    (crow,) = np.flatnonzero(pack.clips["kind"] == pack.kinds.index("effects"))
    audio = torch.from_numpy(pack.read(crow)).float() / 32768
    frames = normalise(LogMelFrontend(FrontendConfig()).log_mel(audio[None]), unbiased=False)[0]
    crop = crops(CropBatches(pack, recipe_of(tmp_path, "{effects = 1.0}")), 0)[0]
    assert len(frames) < 200 and torch.allclose(crop[: len(frames)], frames, atol=1e-5)
    assert torch.equal(crop[len(frames)], crop[len(frames) - 2])
    batch = CropBatches(pack, recipe_of(tmp_path, "{notes = 0.25, effects = 0.75}", batch_size=1000))
    assert 0.7 < np.mean(batch.draw(0, np.random.default_rng(0)) == crow) < 0.8


def test_clips_at_other_speeds(data, tmp_path):
    """A clip at twice the speed is half as long and an octave higher; which speed is a matter of seed and step."""
    wave = (8000 * np.sin(2 * np.pi * 500 * np.arange(16000) / 16000)).astype(np.int16)
    for speed, hertz in ((Fraction(2), 1000), (Fraction(3, 4), 375)):
        played = play(wave, speed)
        assert len(played) == played_length(len(wave), speed) and played.dtype == np.int16
        assert np.argmax(np.abs(np.fft.rfft(played, 16000))) == hertz
    assert play(wave, Fraction(1)) is wave
    pack = Pack(data)
    recipe = recipe_of(tmp_path, semitones=4.0, batch_size=8)
    whole, halves = CropBatches(pack, recipe)[5], [CropBatches(pack, recipe, rank, 2)[5] for rank in range(2)]
    assert whole.lengths[::2] == halves[0].lengths and whole.starts[1::2] == halves[1].starts
    picks = CropBatches(pack, recipe).draw(5, np.random.default_rng([recipe.seed, 5]))
    ratios = pack.clips["samples"][picks] / whole.lengths
    assert 2 ** (-4.5 / 12) < ratios.min() < 1 < ratios.max() < 2 ** (4.5 / 12)


def test_kinds_that_are_not_there(data, tmp_path):
    with pytest.raises(ValueError, match=r"the pack has no clips of kind \['speech'\]; it has \['effects', 'notes'\]"):
        CropBatches(Pack(data), recipe_of(tmp_path, "{speech = 1.0}"))
    recipe = Recipe.read("mwmae-tiny-cpu", ["kinds={}", "batch_size=4"])  # as the message says
    assert sorted(CropBatches(Pack(data), recipe).draw(0, np.random.default_rng(0))) == [0, 1, 2, 3]
