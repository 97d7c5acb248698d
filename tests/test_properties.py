"""Properties that hold for any audio and for any damage to a model file, with inputs drawn by
hypothesis.
"""

import functools
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hear_mwmae
from hear_mwmae import HearMwmaeError
from hear_mwmae.config import DecoderConfig, EncoderConfig, ModelConfig, derive_window_sizes
from hear_mwmae.embedder import Embedder
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.weights import CONFIG_NAME, WEIGHTS_NAME, save_model

CONFIG = ModelConfig(
    EncoderConfig(8, 1, 1), DecoderConfig(8, 1, 8, window_sizes=derive_window_sizes(250))
)
CLIP = torch.rand(1, 3000, generator=torch.Generator().manual_seed(0)) * 2 - 1
#: Bytes that loading a file of a few kilobytes may add to the address space.
HEADROOM = 1 << 30
FIXED = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def accepted(call: Callable[[], object]) -> bool:
    """Whether ``call`` succeeds; the only exception that it may raise is HearMwmaeError."""
    try:
        call()
    except HearMwmaeError:
        return False
    return True


# Audio


@pytest.fixture(scope="module")
def model() -> Embedder:
    torch.manual_seed(0)
    return Embedder(CONFIG, pooling="mean+std+max")


@st.composite
def clips(draw: st.DrawFn, longest: int = 60_000) -> torch.Tensor:
    """(samples,) float32 in [-1, 1]: noise, tones, an impulse on a constant, silence."""
    samples = draw(st.one_of(st.integers(1, 900), st.integers(1, longest)))
    gain = draw(st.sampled_from([1.0, 0.01, 0.0]))
    kind = draw(st.sampled_from(["noise", "tone", "impulse"]))
    if kind == "noise":
        audio = np.random.default_rng(samples).uniform(-1, 1, samples)
    elif kind == "tone":
        audio = np.sin(2 * np.pi * draw(st.integers(20, 8000)) * np.arange(samples) / 16000)
    else:
        audio = np.full(samples, 0.5)
        audio[draw(st.integers(0, samples - 1))] = 1
    return torch.from_numpy((gain * audio).astype(np.float32))


@settings(FIXED, max_examples=40)
@given(clip=clips(), dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]))
def test_any_clip_has_finite_embeddings_and_increasing_timestamps(model, clip, dtype):
    clip = clip.to(dtype)
    scene = model(clip[None])
    steps, times = model(clip[None], timestamps=True)
    assert scene.shape == (1, model.scene_embedding_size)
    assert steps.shape == (*times.shape, model.timestamp_embedding_size)
    for values in (scene, steps, times):
        assert values.dtype == torch.float32 and values.isfinite().all()
    assert (times.diff() > 0).all() and times[0, 0] >= 0 and times[0, -1] <= len(clip) / 16
    (rows,), (milliseconds,) = model.embed(clip, timestamps=True)
    assert torch.equal(milliseconds, times[0]) and (rows - steps[0]).abs().max() < 1e-5
    assert (model.embed(clip.numpy()) - scene).abs().max() < 1e-5


@settings(FIXED, max_examples=20)
@given(several=st.lists(clips(20_000), min_size=1, max_size=6))
def test_a_clip_has_one_embedding_alone_and_beside_any_others(model, several):
    alone = torch.cat([model(clip[None]) for clip in several])
    padded = torch.nn.utils.rnn.pad_sequence(several, batch_first=True)
    assert (model.embed(several) - alone).abs().max() < 1e-5
    beside = model(padded, [len(clip) for clip in several])
    assert (beside - alone).abs().max() < 1e-5


# Files


@pytest.fixture(autouse=True, scope="module")
def bounded_memory() -> Iterator[None]:
    """On Linux, an allocation beyond the headroom fails, with an exception that no
    property allows.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    if (statm := Path("/proc/self/statm")).is_file():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, torch.Tensor]:
    """The folder of a model, and its embedding of CLIP."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved")
    save_model(folder, CONFIG, MaskedAutoencoder(CONFIG).state_dict())
    return folder, hear_mwmae.load_model(folder)(CLIP)


@st.composite
def damaged(draw: st.DrawFn, content: bytes, head: int) -> bytes:
    """A span that is overwritten, removed, inserted or cut off; half of the places are in the
    head.
    """
    place = draw(st.one_of(st.integers(0, head - 1), st.integers(0, len(content) - 1)))
    span = draw(st.binary(min_size=1, max_size=9))
    kind = draw(st.sampled_from(["overwrite", "remove", "insert", "cut"]))
    end = {"insert": place, "cut": len(content)}.get(kind, place + len(span))
    return content[:place] + (b"" if kind in ("remove", "cut") else span) + content[end:]


#: Deeper than a reader of JSON or msgpack may follow.
DEEP = functools.reduce(lambda inner, _: [inner], range(400), [])
#: JSON values of every type, of sizes that no configuration has.
ODD = [None, True, "", "x", "\ud800", "mean+max", [], {}, [1, 2], [2**63], {"a": 1}, [1] * 3000]
ODD += [-1, 0, 1, 4, 0.5, 8000, 2**31, 2**53 + 1, 10**400, 1e308, 1e-320, float("nan"), DEEP]


@st.composite
def edited(draw: st.DrawFn, text: bytes) -> str:
    """The JSON object in ``text`` with one key, at any depth, replaced, added or removed."""
    values = json.loads(text)
    node = values
    while inner := [value for value in node.values() if value and isinstance(value, dict)]:
        if draw(st.booleans()):
            break
        node = draw(st.sampled_from(inner))
    key = draw(st.sampled_from([*node, "other", "\ud800"]))
    if draw(st.integers(0, 3)) == 0:
        node.pop(key, None)
    else:
        node[key] = draw(st.sampled_from([node.get(key), *ODD]))
    return json.dumps(values)


@settings(FIXED, max_examples=150)
@given(data=st.data())
def test_a_damaged_model_is_refused_or_gives_the_same_embeddings(saved, tmp_path_factory, data):
    """One change to model.safetensors or to config.json. A weights file by itself has no hash: what
    is refused is refused by HearMwmaeError.
    """
    folder, scene = saved
    weights, config = ((folder / name).read_bytes() for name in (WEIGHTS_NAME, CONFIG_NAME))
    start = 8 + int.from_bytes(weights[:8], "little")
    kind = data.draw(st.sampled_from(["header", "weights", "values", "config"]))
    if kind == "header":
        header = data.draw(edited(weights[8:start])).encode()
        weights = len(header).to_bytes(8, "little") + header + weights[start:]
    elif kind == "weights":
        weights = data.draw(damaged(weights, start))
    elif kind == "values":
        config = data.draw(edited(config)).encode()
    else:
        config = data.draw(damaged(config, 100))
    source = tmp_path_factory.getbasetemp() / "damaged"
    source.mkdir(exist_ok=True)
    (source / CONFIG_NAME).write_bytes(config)
    (source / WEIGHTS_NAME).write_bytes(weights)
    accepted(lambda: hear_mwmae.load_model(source / WEIGHTS_NAME))
    try:
        model = hear_mwmae.load_model(source)
    except HearMwmaeError:
        return
    if model.config.pooling == CONFIG.pooling:  # config.json may choose another one
        assert torch.equal(model(CLIP), scene)
