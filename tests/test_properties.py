"""Properties that hold for any audio and for any damage to a model file, with inputs drawn by
hypothesis.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from flax_writer import packed, train_state
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
TYPES = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "O", "f4", "f8"]
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
    """(samples,) float32 in [-1, 1]: noise, tones, clipped tones, impulses, constants, silence."""
    samples = draw(st.one_of(st.integers(1, 900), st.integers(1, longest)))
    gain = draw(st.sampled_from([1.0, 0.3, 0.01]))
    kind = draw(st.sampled_from(["noise", "tone", "clipped", "impulse", "constant", "silence"]))
    if kind in ("tone", "clipped"):
        audio = np.sin(2 * np.pi * draw(st.integers(20, 8000)) * np.arange(samples) / 16000)
        audio = np.sign(audio) if kind == "clipped" else audio
    elif kind == "noise":
        audio = np.random.default_rng(samples).uniform(-1, 1, samples)
    else:
        audio = np.full(samples, float(kind == "constant"))
        audio[draw(st.integers(0, samples - 1))] += kind == "impulse"
    return torch.from_numpy((gain * audio).astype(np.float32))


@settings(FIXED, max_examples=60)
@given(clip=clips(), dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]))
def test_any_clip_has_finite_embeddings_and_increasing_timestamps(model, clip, dtype):
    clip = clip.to(dtype)
    scene = model.scene_embeddings(clip[None])
    steps, times = model.timestamp_embeddings(clip[None])
    assert scene.shape == (1, model.scene_embedding_size)
    assert steps.shape == (*times.shape, model.timestamp_embedding_size)
    for values in (scene, steps, times):
        assert values.dtype == torch.float32 and values.isfinite().all()
    assert (times.diff() > 0).all() and times[0, 0] >= 0 and times[0, -1] <= len(clip) / 16
    (rows,), (milliseconds,) = model.embed(clip, timestamps=True)
    assert torch.equal(milliseconds, times[0]) and (rows - steps[0]).abs().max() < 1e-5
    assert (model.embed(clip.numpy()) - scene).abs().max() < 1e-5


@settings(FIXED, max_examples=30)
@given(several=st.lists(clips(20_000), min_size=1, max_size=6))
def test_a_clip_has_one_embedding_alone_and_beside_any_others(model, several):
    alone = torch.cat([model.scene_embeddings(clip[None]) for clip in several])
    padded = torch.nn.utils.rnn.pad_sequence(several, batch_first=True)
    assert (model.embed(several) - alone).abs().max() < 1e-5
    beside = model.scene_embeddings(padded, [len(clip) for clip in several])
    assert (beside - alone).abs().max() < 1e-5


@settings(FIXED, max_examples=60)
@given(shape=st.lists(st.integers(0, 3), max_size=4))
def test_shapes_that_are_accepted(model, shape):
    audio = torch.zeros(shape)
    assert accepted(lambda: model.scene_embeddings(audio)) == (len(shape) == 2 and all(shape))
    assert accepted(lambda: model.timestamp_embeddings(audio)) == (len(shape) == 2 and all(shape))
    assert accepted(lambda: model.embed(audio.numpy())) == (len(shape) in (1, 2) and all(shape))


@settings(FIXED, max_examples=60)
@given(
    clip=clips(900),
    dtype=st.sampled_from(TYPES),
    value=st.sampled_from([np.nan, np.inf, -np.inf, 1e13, -1e300]),
    place=st.integers(0, 899),
)
def test_other_types_and_values_are_refused(model, clip, dtype, value, place):
    """Integers, booleans, complex numbers and objects; of floating-point audio, one value of no
    audio.
    """
    audio = clip.numpy().astype(dtype)
    if audio.dtype.kind == "f":
        with np.errstate(over="ignore"):
            audio[place % len(audio)] = value
    assert not accepted(lambda: model.embed(audio))
    if dtype != "O":
        clips = torch.from_numpy(audio)[None]
        assert not accepted(lambda: hear_mwmae.get_scene_embeddings(clips, model))
        assert not accepted(lambda: hear_mwmae.get_timestamp_embeddings(clips, model))


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
def saved(tmp_path_factory) -> tuple[Path, torch.Tensor, dict[str, torch.Tensor]]:
    """The folder of a model, its embedding of CLIP, and its weights."""
    torch.manual_seed(0)
    folder, state = tmp_path_factory.mktemp("saved"), MaskedAutoencoder(CONFIG).state_dict()
    save_model(folder, CONFIG, state)
    return folder, hear_mwmae.load_model(folder).scene_embeddings(CLIP), state


@st.composite
def damaged(draw: st.DrawFn, content: bytes, head: int) -> bytes:
    """One flipped bit, or a span that is overwritten, removed, inserted or cut off; half of the
    places are in the head.
    """
    place = draw(st.one_of(st.integers(0, head - 1), st.integers(0, len(content) - 1)))
    span = draw(st.binary(min_size=1, max_size=9))
    kind = draw(st.sampled_from(["flip", "overwrite", "remove", "insert", "cut"]))
    if kind == "flip":
        span = bytes([content[place] ^ 1 << draw(st.integers(0, 7))])
    end = {"insert": place, "cut": len(content)}.get(kind, place + len(span))
    return content[:place] + (b"" if kind in ("remove", "cut") else span) + content[end:]


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


#: JSON values of every type, of sizes that no configuration has.
ODD = [None, True, "", "x", "\ud800", "mean+max", [], {}, [1, 2], [2**63], {"a": 1}, nested(300)]
ODD += [-1, 0, 1, 4, 0.5, -0.0, 8000, 2**31, 2**53 + 1, 2**64, 10**400, 1e308, 1e-320]
ODD += [float("nan"), float("inf"), [1] * 3000, "y" * 3000]


@st.composite
def edited(draw: st.DrawFn, text: bytes) -> str:
    """The JSON object in ``text`` with one key or list item replaced or removed, or one
    key added.
    """
    values = json.loads(text)
    node = values
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw(st.sampled_from(keys))
        if not node[key] or not isinstance(node[key], dict | list) or draw(st.integers(0, 3)) == 0:
            break
        node = node[key]
    kinds = ["replace", "replace", "remove"]
    if isinstance(node, dict):
        kinds.append("add")
    kind = draw(st.sampled_from(kinds))
    if kind == "remove":
        del node[key]
    else:
        new = draw(st.sampled_from([f"{key}x", "", "\ud800"])) if kind == "add" else key
        node[new] = draw(st.sampled_from([node[key], *ODD]))
    return json.dumps(values)


@settings(FIXED, max_examples=150)
@given(data=st.data())
def test_a_damaged_model_is_refused_or_gives_the_same_embeddings(saved, tmp_path_factory, data):
    """One change to model.safetensors or to config.json. A weights file by itself has no hash: what
    is refused is refused by HearMwmaeError.
    """
    folder, scene, _ = saved
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
        assert torch.equal(model.scene_embeddings(CLIP), scene)


#: What msgpack can hold in place of an array. Texts in capitals stand for bytes that its packer
#: does not write.
PACKED_ODD = [None, 1.5, "x", b"x", [], {}, nested(400), [1] * 999, 2**63, "DEEP", "TIME"]
for body in (b"x", msgpack.packb(([2**40], "float32", b""))):
    PACKED_ODD += [msgpack.ExtType(code, body) for code in (1, 3, 77)]
UNWRITTEN = {"DEEP": b"\x91" * 1000 + b"\x90", "TIME": b"\xc7\x05\xff12345"}
TABLE = f"decoder_block_00/wmha_block/attn_heads_{'9' * 5000}/relative_position_bias_table"
NAMES = ["", "params", "pos_embed", TABLE]
COLLECTIONS = ["params", "frozen_params", "opt_state"]


@settings(FIXED, max_examples=80)
@given(data=st.data())
def test_a_damaged_checkpoint_of_the_authors_kind_is_refused_or_loads(
    saved, tmp_path_factory, data
):
    leaves = packed(CONFIG, saved[2])
    kind = data.draw(st.sampled_from(["bytes", "leaf", "name", "collection", "key"]))
    odd = PACKED_ODD[data.draw(st.integers(0, len(PACKED_ODD) - 1))]
    if kind == "bytes":
        content = data.draw(damaged(train_state(leaves), 700))
    elif kind == "leaf":
        content = train_state(leaves | {data.draw(st.sampled_from(sorted(leaves))): odd})
    elif kind == "name":
        content = train_state(leaves | {data.draw(st.sampled_from(NAMES)): leaves["pos_embed"]})
    elif kind == "collection":
        content = train_state(leaves, **{data.draw(st.sampled_from(COLLECTIONS)): odd})
    else:
        content = b"\x82" + msgpack.packb(odd) + b"\xc0" + msgpack.packb("params") + b"\x80"
    for text, written in UNWRITTEN.items():
        content = content.replace(msgpack.packb(text), written)
    file = tmp_path_factory.getbasetemp() / "checkpoint_1"
    file.write_bytes(content)
    accepted(lambda: hear_mwmae.load_model(file))  # a flip among the numbers goes unseen
