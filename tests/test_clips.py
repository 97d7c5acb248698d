"""What callers pass as audio: layouts, rates, kinds of arrays."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from test_hear_api import noise

import hear_mwmae

CLIP = noise(20000)


@pytest.fixture(scope="module")
def expected(embedded_model) -> torch.Tensor:
    return embedded_model.embed(CLIP)


@pytest.mark.parametrize("layout", [(16000, 2), (9, 8), (100, 1)])
def test_samples_before_channels_are_refused(embedded_model, layout):
    """`soundfile.read` returns this layout: it would be thousands of clips of two samples."""
    audio = np.zeros(layout, np.float32)
    message = r"looks like \(samples, channels\), where \(clips, samples\) is expected"
    with pytest.raises(ValueError, match=message):
        embedded_model.embed(audio)
    for get_embeddings in (hear_mwmae.get_scene_embeddings, hear_mwmae.get_timestamp_embeddings):
        with pytest.raises(ValueError, match=message):
            get_embeddings(torch.from_numpy(audio), embedded_model)


def test_many_short_clips_are_still_clips(embedded_model):
    assert len(embedded_model.embed(np.zeros((20, 9), np.float32))) == 20


@pytest.mark.parametrize("rate", [True, 0, -1, 16000.0, "16000", 1 << 40, [16000, 8000]])
def test_other_rates_are_refused(embedded_model, rate):
    with pytest.raises(ValueError, match="sample_rate must be"):
        embedded_model.embed(CLIP, rate)


@pytest.mark.parametrize("kind", [bool, np.int16, np.uint8, object, np.complex64])
def test_arrays_of_other_kinds_are_refused_by_one_message(embedded_model, kind):
    with pytest.raises(ValueError, match=r"audio must be floating point within \[-1, 1\], got "):
        embedded_model.embed(np.zeros(100, kind))


@pytest.mark.parametrize("change", ["read-only", "big-endian", "float64", "strided"])
def test_arrays_of_any_floats_are_embedded_without_a_warning(embedded_model, expected, change):
    array = CLIP.numpy().copy()
    if change == "read-only":
        array.flags.writeable = False
    elif change == "big-endian":
        array = array.astype(">f4")
    elif change == "float64":
        array = array.astype(np.float64)
    else:
        array = np.repeat(array, 2)[::2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(embedded_model.embed(array), expected)


def test_integers_as_floats_are_warned_of(embedded_model):
    with pytest.warns(UserWarning, match=r"audio reaches 3\.28e\+04, where \[-1, 1\] is expected"):
        embedded_model.embed(CLIP * 32767)


def test_a_generator_is_a_list(embedded_model):
    clips = [noise(n, n) for n in (5, 9000, 40000)]
    assert torch.equal(embedded_model.embed(iter(clips)), embedded_model.embed(clips))
    with pytest.raises(ValueError, match="the list of clips is empty"):
        embedded_model.embed(iter([]))


def test_clips_are_encoded_together_for_timestamps_too(embedded_model):
    sizes = []
    handle = embedded_model.encoder.register_forward_pre_hook(
        lambda module, args: sizes.append(len(args[0]))
    )
    clips = [noise(n, n) for n in (5, 9000, 40000, 100)]
    steps, times = embedded_model.embed(clips, timestamps=True)
    handle.remove()
    assert sizes == [5]
    for clip, features, moments in zip(clips, steps, times, strict=True):
        alone, alone_times = embedded_model.timestamp_embeddings(clip[None])
        torch.testing.assert_close(features, alone[0], atol=1e-5, rtol=1e-5)
        assert torch.equal(moments, alone_times[0])
