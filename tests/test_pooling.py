"""Pooling over time: exact over chunks, whatever the batch, and padding never counts."""

import pytest
import torch
from test_hear_api import noise

from hear_mwmae.embedder import Embedder

ALL = "mean+std+max"


@pytest.fixture(scope="module")
def pooled(small_config) -> Embedder:
    torch.manual_seed(0)
    return Embedder(
        small_config, pooling=ALL, timestamps="official"
    )  # which keep the last time step, as the scene does


def expected(steps: torch.Tensor) -> torch.Tensor:
    """Straight from the time steps (T, D), in float64."""
    steps = steps.double()
    return torch.cat([steps.mean(dim=0), steps.std(dim=0, correction=0), steps.amax(dim=0)]).float()


@pytest.mark.parametrize("samples", [1, 640, 31999, 32000, 100000, 1_000_001])
def test_statistics_are_those_of_the_time_steps(pooled, samples):
    audio = noise(samples)[None]
    scene = pooled(audio)
    assert (
        scene.shape == (1, pooled.scene_embedding_size) == (1, 3 * pooled.timestamp_embedding_size)
    )
    torch.testing.assert_close(
        scene[0], expected(pooled(audio, timestamps=True)[0][0]), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("pooling", ["mean", "std+max", "max+mean+std"])
def test_statistics_come_in_the_order_given(pooled, pooling):
    model = Embedder(pooled.config, pooling=pooling)
    model.encoder.load_state_dict(pooled.encoder.state_dict())
    audio = noise(70000)[None]
    parts = dict(zip(ALL.split("+"), pooled(audio).chunk(3, 1), strict=True))
    chosen = [parts[name] for name in pooling.split("+")]
    assert torch.equal(model(audio), torch.cat(chosen, dim=1))
    assert model.scene_embedding_size == len(chosen) * model.timestamp_embedding_size
