"""Loading beside what else a process does: threads, default devices and types."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hear_mwmae import get_scene_embeddings, get_timestamp_embeddings, load_model
from hear_mwmae.mae import MaskedAutoencoder

CLIP = torch.rand(1, 20000, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def expected() -> tuple[torch.Tensor, ...]:
    return embeddings()


def embeddings() -> tuple[torch.Tensor, ...]:
    model = load_model()
    audio = CLIP.to("cpu")
    found = (
        get_scene_embeddings(audio, model),
        *get_timestamp_embeddings(audio, model),
        model.embed([audio[0].numpy(), audio[0, :9000].numpy()]),
        *model.layers(audio, [0, -1]),
    )
    MaskedAutoencoder.from_pretrained()
    return found


@pytest.mark.parametrize(
    ("way", "dtype"),
    [
        ("default device", torch.float64),
        ("context", torch.bfloat16),
        ("default dtype", torch.float64),
    ],
)
def test_defaults_of_the_process_change_nothing(expected, way, dtype):
    device = torch.get_default_device()
    try:
        torch.set_default_dtype(dtype)
        if way == "default device":
            torch.set_default_device("meta")
            found = embeddings()
            assert torch.get_default_device() == torch.device("meta")
        elif way == "context":
            with torch.device("meta"):
                found = embeddings()
                assert torch.empty(1).is_meta
        else:
            found = embeddings()
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert torch.get_default_device() == device
    for one, other in zip(expected, found, strict=True):
        assert one.device == other.device and one.dtype == other.dtype == torch.float32
        assert torch.equal(one, other)


def test_threads_that_load_leave_the_random_state_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(4) as threads:
        models = list(threads.map(lambda _: load_model(), range(8)))
    MaskedAutoencoder.from_pretrained()
    assert torch.equal(torch.get_rng_state(), before)
    first, *others = (model.scene_embeddings(CLIP) for model in models)
    assert all(torch.equal(first, other) for other in others)
