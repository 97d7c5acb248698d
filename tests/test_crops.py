"""Batches: which clips and crops, by how many processes, streamed and resident."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from packing import change_clips, damage_clip
from tiny_run import losses, tiny_recipe, write_recipe

from hear_mwmae import HearMwmaeError
from hear_mwmae.config import FrontendConfig
from hear_mwmae.frontend import LogMelFrontend
from hear_mwmae.training.crops import Batch, Batches, ResidentAudio, log_mel_crops, read_ahead
from hear_mwmae.training.dataset import AudioDataset
from hear_mwmae.training.loop import pretrain
from hear_mwmae.training.recipe import Recipe
from hear_mwmae.training.sampler import StepSampler

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def dataset(data) -> AudioDataset:
    return AudioDataset(data)


def read(dataset: AudioDataset, recipe: Recipe, step: int, rank: int = 0, world: int = 1) -> Batch:
    """What a process reads for a step."""
    return Batches(dataset, StepSampler(dataset, recipe, rank, world))[step]


def crops(
    dataset: AudioDataset, recipe: Recipe, step: int, rank: int = 0, world: int = 1
) -> torch.Tensor:
    """(B, 200, 80) of a step."""
    batch = read(dataset, recipe, step, rank, world)
    return log_mel_crops(LogMelFrontend(FrontendConfig()), batch, 200)


def picked(dataset: AudioDataset, recipe: Recipe, step: int) -> list[int]:
    """The clips of a step."""
    return [crop.clip for crop in StepSampler(dataset, recipe)[step]]


def recipe_of(
    folder: Path, kinds: str = "{notes = 0.5, effects = 0.5}", **changes: object
) -> Recipe:
    return Recipe.read(write_recipe(folder / "recipe.toml", **changes), [f"kinds={kinds}"])


def test_crops_are_those_of_the_frontend(dataset, audio_folder, tmp_path):
    """Of the log-mel of a whole clip, normalised as a whole: ten seconds of a longer recording are
    such a clip.
    """
    audio, _ = soundfile.read(audio_folder / "long.flac", dtype="float32")
    frontend = LogMelFrontend(FrontendConfig())
    clips = [torch.from_numpy(audio[start : start + 160000]) for start in (0, 160000, 320000)]
    features = [frontend(clip[None], unbiased=False)[0] for clip in clips]
    recipe = recipe_of(tmp_path, "{notes = 1.0}")
    made = crops(dataset, recipe, 0)
    for crop, values in zip(StepSampler(dataset, recipe)[0], made, strict=True):
        expected = features[crop.clip][crop.start : crop.start + 200]
        assert torch.allclose(values, expected, atol=1e-5)


def test_crops_begin_anywhere(dataset, tmp_path):
    """In clips of ten seconds, 1001 frames, so that a crop ends with its clip at the latest."""
    sampler = StepSampler(dataset, recipe_of(tmp_path, "{notes = 1.0}"))
    starts = [crop.start for step in range(200) for crop in sampler[step] if crop.clip < 2]
    assert min(starts) < 10 and 790 < max(starts) <= 801 and len(set(starts)) > 300


@pytest.mark.parametrize("kinds", ["{notes = 0.5, effects = 0.5}", "{}"])
def test_batches_are_functions_of_seed_and_step(dataset, tmp_path, kinds):
    one, two = (recipe_of(tmp_path, kinds, seed=seed) for seed in (1, 2))
    third = crops(dataset, one, 3)
    assert third.shape == (8, 200, 80) and third.dtype == torch.float32
    assert torch.equal(third, crops(dataset, one, 3))
    assert not torch.equal(third, crops(dataset, one, 4))
    assert not torch.equal(third, crops(dataset, two, 3))
    for rank in range(2):  # equal up to the rounding of products of other sizes
        assert torch.allclose(crops(dataset, one, 3, rank, 2), third[rank::2], atol=1e-5)


def test_worker_processes_read_the_same(dataset, tmp_path):
    recipe = recipe_of(tmp_path)
    state = torch.get_rng_state()
    ahead = read_ahead(Batches(dataset, StepSampler(dataset, recipe)), range(2, 6), 2)
    for step, batch in zip(range(2, 6), ahead, strict=True):
        here = read(dataset, recipe, step)
        assert torch.equal(batch.audio, here.audio) and batch.starts == here.starts
    assert torch.equal(state, torch.get_rng_state())


def test_without_kinds_every_clip_comes_once_per_epoch(dataset, tmp_path):
    recipe = recipe_of(tmp_path, "{}", batch_size=6)
    other_seed = recipe_of(tmp_path, "{}", batch_size=6, seed=recipe.seed + 1)
    # 4 clips: six epochs in four batches
    drawn, others = (
        [clip for step in range(4) for clip in picked(dataset, seeded, step)]
        for seeded in (recipe, other_seed)
    )
    epochs = [drawn[start : start + 4] for start in range(0, 24, 4)]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1 and drawn != others
    assert picked(dataset, recipe, 1) == drawn[6:12]  # out of order, too


def test_a_fraction_of_the_data(dataset, tmp_path):
    recipes = [recipe_of(tmp_path, "{}", seed=seed, data_fraction=0.5) for seed in range(6)]
    chosen = {tuple(StepSampler(dataset, recipe).clips) for recipe in recipes}
    assert {len(clips) for clips in chosen} == {2} and len(chosen) > 1


def test_short_clips_are_reflected_and_shares_kept(dataset, tmp_path):
    (crow,) = np.flatnonzero(dataset.kind_of == dataset.kinds.index("effects"))
    audio = dataset[crow].float() / 32768
    frames = LogMelFrontend(FrontendConfig())(audio[None], unbiased=False)[0]
    crop = crops(dataset, recipe_of(tmp_path, "{effects = 1.0}"), 0)[0]
    assert len(frames) < 200 and torch.allclose(crop[: len(frames)], frames, atol=1e-5)
    assert torch.equal(crop[len(frames)], crop[len(frames) - 2])
    shares = recipe_of(tmp_path, "{notes = 0.25, effects = 0.75}", batch_size=1000)
    assert 0.7 < np.mean(np.array(picked(dataset, shares, 0)) == crow) < 0.8


def test_clips_of_a_kind_come_by_the_root_of_their_length(dataset, tmp_path):
    sampler = StepSampler(dataset, recipe_of(tmp_path, "{notes = 1.0}", batch_size=20000))
    counts = np.bincount([crop.clip for crop in sampler[0]], minlength=len(dataset))
    roots = np.sqrt(dataset.samples) * (dataset.kind_of == dataset.kinds.index("notes"))
    assert np.allclose(counts / counts.sum(), roots / roots.sum(), atol=0.01)


def test_kinds_that_are_not_there(data, dataset, tmp_path):
    """Are refused; data of one kind need no shares, so that any recipe trains on them."""
    with pytest.raises(ValueError, match=r"no clips of kind 'speech', but \['effects', 'notes'\]"):
        StepSampler(dataset, recipe_of(tmp_path, "{speech = 1.0}"))
    folder = change_clips(data, tmp_path / "own", lambda row, _: row | {"kind": "audio"})
    recipe = Recipe.read("tiny", ["batch_size=4"])
    assert recipe.kinds and sorted(picked(AudioDataset(folder), recipe, 0)) == [0, 1, 2, 3]


def test_resident_audio_makes_the_same_crops(dataset, tmp_path):
    """To the bit: of long and short clips, whole batches and shares of two processes."""
    recipe = tiny_recipe(tmp_path, kinds={}, data_fraction=0.75)
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        sampler = StepSampler(dataset, recipe, rank, world)
        resident = ResidentAudio(dataset, sampler.clips, CPU, 1)
        assert len(resident.audio) == dataset.samples[sampler.clips].sum()
        streamed, loaded = Batches(dataset, sampler), Batches(resident, sampler)
        for step in range(4):
            one, other = streamed[step], loaded[step]
            assert torch.equal(one.audio, other.audio) and one[1:] == other[1:]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_that_cannot_be_read_is_named(data, tmp_path, workers):
    """In one line, without the traceback of a worker, which ends even while the error is there."""
    dataset = AudioDataset(damage_clip(data, tmp_path / "damaged", 1))
    sampler = StepSampler(dataset, tiny_recipe(tmp_path, kinds={"notes": 1.0}))
    others = multiprocessing.active_children()  # joblib's, of tests before
    with pytest.raises(HearMwmaeError) as caught:
        next(read_ahead(Batches(dataset, sampler), range(1), workers))
    message = str(caught.value)
    assert message.startswith(f"{dataset.source}: clip 1 (long-10.flac) cannot be read: ")
    assert "\n" not in message and set(multiprocessing.active_children()) <= set(others)


def test_a_resident_run_is_the_streamed_one(data, tmp_path):
    """Also where one goes on with the other's checkpoint."""
    pretrain(tiny_recipe(tmp_path, steps=4), data, tmp_path / "streamed")
    pretrain(tiny_recipe(tmp_path, resident=True, steps=4), data, tmp_path / "resident")
    assert losses(tmp_path / "resident") == losses(tmp_path / "streamed")
    pretrain(tiny_recipe(tmp_path, resident=True, steps=6), data, tmp_path / "streamed")
    assert len(losses(tmp_path / "streamed")) == 6
