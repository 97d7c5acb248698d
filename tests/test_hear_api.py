"""The HEAR API: shapes, timestamps, batches, bad input."""

import copy

import numpy as np
import pytest
import torch
from reference import AUDIO

import hear_mwmae
from hear_mwmae import frontend as frontend_module
from hear_mwmae.audio import read_audio
from hear_mwmae.config import preset
from hear_mwmae.embedder import Embedder
from hear_mwmae.frontend import LogMelFrontend
from hear_mwmae.pooling import time_step_ms

PIANO = AUDIO / "piano.flac"


def tone(samples: int, hertz: float = 440.0) -> torch.Tensor:
    return 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(samples) / 16000)


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(samples, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_api_is_what_hear_asks_for(embedded_model):
    model = embedded_model
    assert isinstance(model, torch.nn.Module) and not model.training
    sizes = [model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size]
    assert sizes == [16000, 3 * 1280, 1280] and {type(size) for size in sizes} == {int}
    audio = torch.stack([noise(32000), tone(32000)])
    scenes = hear_mwmae.get_scene_embeddings(audio, model)
    assert (
        scenes.shape == (2, 3 * 1280) and scenes.dtype == torch.float32 and not scenes.requires_grad
    )
    steps, timestamps = hear_mwmae.get_timestamp_embeddings(audio, model)
    assert steps.shape == (2, 50, 1280) and steps.dtype == torch.float32
    assert timestamps.shape == (2, 50) and timestamps.dtype == torch.float32


@pytest.mark.parametrize("samples", [1, 100, 239, 240, 16000, 31999, 32000, 53920, 160000])
def test_centred_timestamps(small_model, samples):
    steps, timestamps = small_model(noise(samples)[None], timestamps=True)
    assert steps.shape[:2] == timestamps.shape
    times, duration = timestamps[0].double().numpy(), samples / 16
    if duration < 15:
        assert times.tolist() == pytest.approx([duration / 2])
        return
    assert times == pytest.approx(40 * np.arange(len(times)) + 15)
    assert times[-1] <= duration < times[-1] + 40 + 15  # none beyond the end, none missing
    assert torch.equal(small_model(noise(samples)[None], timestamps=True)[1], timestamps)


def test_timestamps_do_not_drift_over_an_hour(small_model):
    times = time_step_ms(small_model.config, 3600 * 16000, "centred").double().numpy()
    assert len(times) == 90000
    assert np.array_equal(times, 40.0 * np.arange(90000) + 15)


@pytest.mark.parametrize("patch_size", [(8, 16), (5, 5)])
def test_time_steps_follow_the_patch_size(patch_size):
    model = Embedder(preset("mwmae-tiny", patch_size))
    steps, timestamps = model(noise(16000)[None], timestamps=True)
    frames = patch_size[0]
    assert timestamps[0].tolist() == pytest.approx(
        np.arange(0, 1000, 10 * frames)[: steps.shape[1]] + (frames - 1) * 5
    )
    assert steps.shape[2] == model.timestamp_embedding_size == 80 // patch_size[1] * 192


def test_max_batch_changes_memory_not_results(small_model):
    audio = torch.stack([noise(100000), tone(100000)])  # 2 clips of 4 chunks
    sizes = []
    handle = small_model.encoder.register_forward_pre_hook(
        lambda module, args: sizes.append(len(args[0]))
    )
    narrow = copy.copy(small_model)
    narrow.max_batch = 3
    whole, pieces = small_model(audio), narrow(audio)
    handle.remove()
    assert sizes == [8, 3, 3, 2]  # of the batch together, at most max_batch of them at a time
    assert (whole - pieces).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(1, 0), r"empty audio: shape \(1, 0\)"),
        (torch.zeros(16000), r"must have shape \(clips, samples\).*got \(16000,\)"),
        (torch.zeros(1, 16000, dtype=torch.int16), "floating point.*int16"),
        (
            torch.stack([torch.zeros(100), torch.full((100,), -torch.inf)]),
            "NaN or infinity in clip 1 of 2",
        ),
        (torch.tensor([[0.0, 1e30, 0.0]]), r"samples as large as 1e\+30$"),
        (np.zeros((1, 100), dtype=np.float32), "torch tensor.*ndarray"),
    ],
)
def test_bad_audio_is_a_value_error(small_model, audio, message):
    for get_embeddings in (hear_mwmae.get_scene_embeddings, hear_mwmae.get_timestamp_embeddings):
        with pytest.raises(ValueError, match=message):
            get_embeddings(audio, small_model)


@pytest.mark.parametrize(
    "options",
    [
        *({"dtype": value} for value in ("float16", torch.float16, None)),
        *({"timestamps": value} for value in ("middle", {}, 1)),
        *({"pooling": value} for value in ("median", "", "mean+mean", "mean,std", ["mean"], 1)),
        *({"max_batch": value} for value in (0, 2.0, float("nan"))),
    ],
)
def test_bad_option_values(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} (must|should) be"):
        hear_mwmae.load_model(**options)


def test_silence_is_defined(small_model):
    """Zeros after normalisation, whatever the length and the constant: not 0 / 1e-8 in float32."""
    assert not LogMelFrontend(small_model.config.frontend)(torch.zeros(1, 53920)).any()
    scenes = [small_model(torch.zeros(1, samples)) for samples in (400, 32000, 53920)]
    assert all(torch.isfinite(scene).all() and scene.abs().max() < 50 for scene in scenes)
    quiet = small_model(1e-9 * noise(32000)[None])
    torch.testing.assert_close(quiet, scenes[1])


def test_blocks_of_the_frontend_leave_no_trace(small_model, monkeypatch):
    frontend = LogMelFrontend(small_model.config.frontend)
    audio = noise(40000)[None]
    whole = frontend.log_mel(audio)
    monkeypatch.setattr(frontend_module, "BLOCK_SAMPLES", 37 * 400)
    torch.testing.assert_close(
        frontend.log_mel(audio), whole, atol=1e-4, rtol=1e-4
    )  # sums in another order


def test_bfloat16_is_close_and_the_same_in_any_batch(embedded_model):
    fast = hear_mwmae.load_model(dtype="bfloat16")
    audio = torch.stack([read_audio(PIANO, 16000)[:40000], noise(40000), torch.zeros(40000)])
    scenes, exact = fast(audio), embedded_model(audio)
    assert scenes.dtype == torch.float32
    assert torch.cosine_similarity(scenes, exact).min() > 0.9999
    assert (scenes[1] - fast(audio[1:2])[0]).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_may_be_cast(dtype):
    """The encoder changes its precision; the front-end stays float32."""
    model, audio = hear_mwmae.load_model(), read_audio(PIANO, 16000)[None]
    exact = model(audio)
    cast = model.to(dtype)(audio)
    assert cast.dtype == torch.float32 and torch.cosine_similarity(cast, exact) > 0.9999
    assert model.frontend.windows[0].filterbank.dtype == torch.float32


def test_an_ambient_autocast_changes_nothing(small_model):
    audio = noise(20000)[None]
    exact = small_model(audio)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(small_model(audio), exact)
