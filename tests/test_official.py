"""Checkpoints of the authors' JAX code: what flax and orbax write, written here by hand, and what
is wrong with damaged ones.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from reference import AUDIO, REFERENCE

import hear_mwmae
from hear_mwmae.cli import main
from hear_mwmae.config import PATCH_SIZES, DecoderConfig, EncoderConfig, ModelConfig, derive_window_sizes, preset, preset_names
from hear_mwmae.flax_file import is_official_checkpoint
from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.official import infer_config, load_official, parameter_shapes

WINDOWS = derive_window_sizes(250)
FLAX_NAMES = {"patch_embed": "patch_embed/proj", "norm1": "LayerNorm_0", "norm2": "LayerNorm_1"}
FLAX_NAMES |= {"mlp.fc1": "Mlp_0/Dense_0", "mlp.fc2": "Mlp_0/Dense_1"}
ATTENTION = {"attn.qkv": "Attention_0/Dense_0", "attn.proj": "Attention_0/Dense_1"}
WINDOWED_ATTENTION = {"attn.qkv": "wmha_block/qkv", "attn.proj": "wmha_block/proj"}


def ext(value: np.ndarray, dtype: str = "", code: int = 1) -> msgpack.ExtType:
    """An array (code 1) or a numpy scalar (code 3) as flax.serialization packs it; bfloat16 by
    dropping the lower bits.
    """
    data = (value.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else value.astype(dtype or value.dtype)
    return msgpack.ExtType(code, msgpack.packb((value.shape, dtype or value.dtype.name, data.tobytes())))


def ones(*shape: int) -> msgpack.ExtType:
    return ext(np.ones(shape, "f4"))


def chunked(value: np.ndarray, dtype: str = "") -> dict:
    chunks = {str(i): ext(part, dtype) for i, part in enumerate(np.array_split(value.ravel(), 3))}
    return {"__msgpack_chunked_array__": True, "shape": {str(i): n for i, n in enumerate(value.shape)}, "chunks": chunks}


def nest(leaves: dict[str, object]) -> dict:
    tree: dict = {}
    for path, leaf in leaves.items():
        node, (*parents, name) = tree, path.split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def train_state(leaves: dict[str, object], **changes: object) -> bytes:
    """A whole training state. Nothing of the optimiser's may be decoded: it could not be."""
    undecodable = {"mu": msgpack.ExtType(1, b"\xc1"), "nu": msgpack.ExtType(77, b"?"), "count": [None, [1, 2], {3: 4}]}
    state = {"step": ext(np.array(198400, "i4"), code=3), "batch_stats": {}, "dynamic_scale": None, "frozen_params": {}}
    state |= {"buffers": {"index": ext(np.arange(4))}, "opt_state": {"0": undecodable, "1": {}}, "params": nest(leaves)}
    return msgpack.packb(state | changes)


def to_flax(config: ModelConfig, name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """Flax's path and layout of one of this package's weights."""
    part, rest = name.split(".", 1)
    if "." not in rest:  # position tables, CLS token, mask token
        return rest, value
    (module, leaf), prefix = rest.rsplit(".", 1), ""
    if module.startswith("blocks."):
        _, number, module = module.split(".", 2)
        prefix = f"{part}_block_{int(number):02d}/"
    if module == "attn.relative_position_bias_table":
        return f"{prefix}wmha_block/attn_heads_{leaf}/relative_position_bias_table", value[:, None]
    attention = WINDOWED_ATTENTION if getattr(config, part).window_sizes else ATTENTION
    path = prefix + (FLAX_NAMES | attention | {"norm": f"{part}_norm"}).get(module, module)
    if leaf == "bias" or "norm" in module:
        return f"{path}/{'bias' if leaf == 'bias' else 'scale'}", value
    return f"{path}/kernel", value.T.reshape(*config.patch_size, 1, -1) if module == "patch_embed" else value.T


def shapes_only(config: ModelConfig) -> dict[str, np.ndarray]:
    """Flax parameters without their memory."""
    with torch.device("meta"):
        state = MaskedAutoencoder(config).state_dict()
    return dict(to_flax(config, name, np.broadcast_to(np.float32(0), tuple(value.shape))) for name, value in state.items())


def random_state(config: ModelConfig) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(value.shape) for name, value in MaskedAutoencoder(config).state_dict().items()}


def packed(config: ModelConfig, state: dict[str, torch.Tensor], pack: Callable = ext, dtype: str = "") -> dict[str, object]:
    return {path: pack(v, dtype) for path, v in (to_flax(config, name, value.numpy()) for name, value in state.items())}


def small(patch: tuple[int, int] = (4, 16), encoder: tuple[int, ...] = (), decoder: tuple[int, ...] = WINDOWS) -> ModelConfig:
    """48 wide, whose three encoder heads are inferred."""
    decoder_config = DecoderConfig(48, 2, len(decoder) or 8, window_sizes=decoder)
    return ModelConfig(EncoderConfig(48, 2, 3, window_sizes=encoder), decoder_config, patch_size=patch)


PLAIN = ModelConfig(EncoderConfig(48, 2, 3, cls_token=True), DecoderConfig(48, 1, 8))
KINDS = {
    "mwmae": small(),
    "mae": PLAIN,
    "mae 5x5": dataclasses.replace(PLAIN, patch_size=(5, 5)),
    "8x16": small((8, 16), decoder=derive_window_sizes(125)),
    "8x8": small((8, 8)),
    "4x8": small((4, 8), decoder=derive_window_sizes(500)),
    "5x5": small((5, 5), decoder=derive_window_sizes(640)),
    "encoder windows": small(encoder=(5, 10, 0)),
    "encoder windows, plain decoder": small(encoder=(2, 5, 25), decoder=()),
    "another order": small(decoder=(0, 125, 2, 0, 50, 10, 25, 5)),
    "one global head": small(decoder=(5, 25, 50, 0)),
    "no global head": small(decoder=(25,) * 8),
    "all global": small(encoder=(0, 0, 0), decoder=(0,) * 8),
    "other length": dataclasses.replace(small(decoder=derive_window_sizes(50)), input_frames=40),
}


@pytest.fixture
def leaves() -> dict[str, object]:
    return packed(KINDS["mwmae"], random_state(KINDS["mwmae"]))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint_198400"


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_presets_are_inferred(name: str, patch_size: tuple[int, int]) -> None:
    params = shapes_only(preset(name, patch_size))
    assert infer_config(params) == preset(name, patch_size)
    assert {path: value.shape for path, value in params.items()} == parameter_shapes(preset(name, patch_size))


@pytest.mark.parametrize("kind", ["mwmae", "mae"])
def test_the_authors_own_trees(kind: str) -> None:
    tree = json.loads((REFERENCE / f"tree_{kind}_tiny.json").read_text())["params"]
    shapes = {path: tuple(shape) for path, shape in tree.items()}
    assert shapes == parameter_shapes(preset(f"{kind}-tiny"))
    assert infer_config({path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}) == preset(f"{kind}-tiny")


def test_what_leaves_no_trace() -> None:
    shifted = dataclasses.replace(small(), decoder=dataclasses.replace(small().decoder, shift_windows=True))
    assert infer_config(shapes_only(shifted)) == small()
    assert infer_config(shapes_only(small()), encoder_heads=12).encoder.heads == 12
    windowed = shapes_only(small(encoder=(5, 10, 0)))
    assert infer_config(windowed, encoder_heads=4).encoder.window_sizes == (5, 10, 0, 0)
    with pytest.raises(ValueError, match="not 1"):
        infer_config(windowed, encoder_heads=1)
    # Twelve heads, since that is the width of base; by its window there could be four.
    base = dataclasses.replace(preset("mwmae-base"), encoder=EncoderConfig(768, 12, 12, window_sizes=(0, 5, *(0,) * 10)))
    assert infer_config(shapes_only(base)) == base


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, file: Path) -> None:
    config, state = KINDS[kind], random_state(KINDS[kind])
    file.write_bytes(train_state(packed(config, state)))
    actual_config, actual = load_official(file)
    assert actual_config == config and actual.keys() == state.keys()
    assert all(value.dtype == torch.float32 and torch.equal(value, state[name]) for name, value in actual.items())


@pytest.mark.parametrize("pack", [ext, chunked])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_precisions_and_chunks(dtype: str, pack: Callable, file: Path) -> None:
    state = random_state(PLAIN)
    if dtype == "bfloat16":  # bits that rounding would change, a negative zero, the smallest and a large number
        state["decoder.mask_token"][0, 0, :4] = torch.tensor([1 + 2**-7 + 2**-9, -0.0, 1e-40, 3e38])
    file.write_bytes(train_state(packed(PLAIN, state, pack, dtype)))
    actual = load_official(file)[1]
    for name, value in state.items():
        stored = {"float16": value.half().float(), "bfloat16": (value.view(torch.int32) & -65536).view(torch.float32)}
        assert torch.equal(actual[name].view(torch.int32), stored.get(dtype, value).view(torch.int32)), name


@pytest.mark.parametrize("kind", ["mwmae", "mae", "5x5"])
def test_containers(kind: str, tmp_path: Path) -> None:
    config, state = KINDS[kind], random_state(KINDS[kind])
    leaves = packed(config, state)
    # orbax of 2023: None for what is empty, lists in the optimiser's state
    orbax = train_state(leaves, opt_state=[{"mu": msgpack.ExtType(1, b"")}, None], batch_stats=None, frozen_params=None)
    frozen = {"pos_embed": leaves["pos_embed"]}
    files = {
        "orbax/checkpoint": orbax,
        "orbax/_METADATA": b"{}",
        "manager/9/default/checkpoint": orbax,
        "manager/10.orbax-checkpoint-tmp-1/default/checkpoint": b"\x81",
        "steps/checkpoint_100/checkpoint": orbax,
        "steps/config.json": b"{}",  # the authors' own
        "steps/2023/notes": b"",
        "legacy/checkpoint_9": b"\x81",
        "legacy/checkpoint_10": train_state(leaves),
        "variables/checkpoint": msgpack.packb({"params": {"params": nest(leaves)}}),
        "frozen/checkpoint": train_state({k: v for k, v in leaves.items() if k not in frozen}, frozen_params=frozen),
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    for directory in ("orbax", "manager", "manager/9", "steps", "steps/checkpoint_100", "legacy", "variables", "frozen"):
        actual_config, actual = load_official(tmp_path / directory)
        assert actual_config == config and all(torch.equal(value, state[name]) for name, value in actual.items())
        assert hear_mwmae.load_model(str(tmp_path / directory)).encoder.config == config


def test_convert(tmp_path: Path, leaves: dict[str, object]) -> None:
    (source := tmp_path / "work").mkdir()
    (source / "checkpoint_7").write_bytes(train_state(leaves))
    result = CliRunner().invoke(main, ["convert", str(source), str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    direct, converted, audio = *(hear_mwmae.load_model(str(path)) for path in (source, tmp_path / "model")), torch.randn(2, 20000)
    assert torch.equal(hear_mwmae.get_scene_embeddings(audio, direct), hear_mwmae.get_scene_embeddings(audio, converted))
    # Converted in place, with another number of heads: that is what counts from then on.
    result = CliRunner().invoke(main, ["convert", str(source), str(source), "--encoder-heads", "4"])
    assert result.exit_code == 0, result.output
    assert hear_mwmae.load_model(str(source)).encoder.config.encoder.heads == 4


def refusal(path: Path) -> str:
    """The line with which ``path`` is refused by the reader and by the command; the API has one of
    its own for some.
    """
    with pytest.raises(ValueError) as info:
        hear_mwmae.load_model(str(path))
    assert str(path) in str(info.value) and "\n" not in str(info.value)
    with pytest.raises(ValueError) as info:
        load_official(path)
    message = str(info.value)
    assert str(path) in message and "\n" not in message and len(message) < 300 + len(str(path))
    result = CliRunner().invoke(main, ["convert", str(path), f"{path}.converted"])
    assert result.exit_code == 1 and result.stderr == f"Error: {message}\n"
    return message


def test_truncated_files(file: Path, leaves: dict[str, object]) -> None:
    data = train_state(leaves)
    for cut in (1, 2, 7, 30, 200, len(data) // 3, len(data) // 2, len(data) - 100, len(data) - 1):
        file.write_bytes(data[:cut])
        assert "damaged or truncated" in refusal(file)
    file.write_bytes(data + b"\0")
    assert "more after its end" in refusal(file)


def test_flipped_bytes(file: Path, leaves: dict[str, object]) -> None:
    data, dice, refused = train_state(leaves), random.Random(0), 0
    for place in (*range(40), *(data.find(b"\xa6params") + n for n in range(80))):
        damaged = bytearray(data)
        damaged[place] ^= 1 << dice.randrange(8)
        file.write_bytes(damaged)
        try:
            load_official(file)  # a flip among the numbers goes unseen
        except ValueError as error:
            refused += 1
            assert str(file) in str(error) and "\n" not in str(error) and len(str(error)) < 400
    assert refused > 40


def test_other_files(tmp_path: Path) -> None:
    torch.save({"params": torch.zeros(2)}, tmp_path / "weights.pt")
    contents = {"text": b"params: none\n", "empty": b"", "picture": b"\x89PNG\r\n\x1a\n" + bytes(50), "list": b"\x92\x01\x02"}
    contents["pickle"] = b"\x80\x04\x95\x01\x00\x00\x00\x00\x00\x00\x00N."
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    for path in (AUDIO / "crow.wav", *tmp_path.iterdir()):
        assert "not a readable flax checkpoint" in refusal(path)
    assert not is_official_checkpoint(tmp_path / "pickle")
    (tmp_path / "folder").mkdir()
    assert "no flax checkpoint" in refusal(tmp_path / "folder")
    with pytest.raises(ValueError, match="no flax checkpoint"):
        load_official(tmp_path / "nothing")


@pytest.mark.parametrize("leaf", ["PLACEHOLDER://params.pos_embed", None])
def test_arrays_in_other_files(leaf: str | None, tmp_path: Path, leaves: dict[str, object]) -> None:
    (directory := tmp_path / "checkpoint_7").mkdir()
    (directory / "_METADATA").write_bytes(b"{}")
    if leaf:  # with the optimiser's arrays in the file, or without any file
        (directory / "checkpoint").write_bytes(train_state(leaves | {"pos_embed": leaf}))
    for path in (directory, tmp_path):
        assert "only orbax can read" in refusal(path)


def test_every_parameter_counts(file: Path, leaves: dict[str, object]) -> None:
    for path in leaves:
        file.write_bytes(train_state({other: leaf for other, leaf in leaves.items() if other != path}))
        with pytest.raises(ValueError, match=r"is missing|is unknown|instead of"):
            load_official(file)


BIAS, CHUNKS = "encoder_norm/bias", chunked(np.ones(48, "f4"))
TABLE = "decoder_block_0{}/wmha_block/attn_heads_{}/relative_position_bias_table"


@pytest.mark.parametrize(
    ("path", "leaf", "words"),
    [
        ("encoder_block_07/LayerNorm_0/bias", ones(48), "missing"),
        ("head/kernel", ones(48, 10), "unknown"),
        (TABLE.format(1, 6), ones(3, 1), "unknown"),
        (TABLE.format(0, 9999), ones(3, 1), "head 9999"),
        (TABLE.format(0, 0), ones(4, 1), "instead of (3, 1)"),
        ("pos_embed", ones(250, 48), "3 dimensions"),
        ("pos_embed", ones(1, 251, 48), "251 positions"),
        ("patch_embed/proj/kernel", ones(64, 48), "4 dimensions"),
        ("patch_embed/proj/kernel", ones(4, 16, 2, 48), "instead of (4, 16, 1, 48)"),
        (BIAS, ext(np.array(1, "f4"), code=3), "instead of (48,)"),
        (BIAS, ext(np.array([1] * 47 + [np.nan], "f4")), "not finite"),
        (BIAS, 1.5, "not an array"),
        (BIAS, msgpack.ExtType(77, b"12"), "not an array"),
        (BIAS, CHUNKS | {"shape": {"0": 47}}, "do not fit together"),
        (BIAS, CHUNKS | {"chunks": {"0": ["a"] * 48}}, "do not fit together"),
    ],
)
def test_wrong_parameters(path: str, leaf: object, words: str, file: Path, leaves: dict[str, object]) -> None:
    file.write_bytes(train_state(leaves | {path: leaf}))
    message = refusal(file)
    assert words in message and (path.split("_0")[0] in message or "positions" in message)


def test_arrays_that_are_not_what_they_declare(file: Path, leaves: dict[str, object]) -> None:
    shapes = ([47], [], [10**12], [2**63], [-1], [0, 2**64 - 1], [True] * 48, [48.0], "48", None)
    dtypes = ("object", "O", "f4,f4", "int32", "float8_e4m3fn", "complex64", "float64", "bfloat16", "", None)
    packed = [(shape, "float32", bytes(192)) for shape in shapes] + [([48], dtype, bytes(192)) for dtype in dtypes]
    packed += [([48], "float32", [0] * 48), ([0], "float32", b""), ([48], "float32"), None, {}]
    for body in (*map(msgpack.packb, packed), b"", b"\xc1", b"\xdd\xff\xff\xff\xff"):
        for code in (1, 3):
            file.write_bytes(train_state(leaves | {BIAS: msgpack.ExtType(code, body)}))
            assert "not a readable flax checkpoint" in refusal(file), body


def test_other_maps(file: Path, leaves: dict[str, object]) -> None:
    maps = ({"step": 3}, {"params": {}}, {"params": nest(leaves) | {b"x": ones(2)}}, {1: 2, "params": {"pos_embed": {}}})
    deep = b"\x81\xa6params" + b"\x81\xa1a" * 900 + b"\x80"
    damaged = [
        b"\xdf\xff\xff\xff\xff\xa6params",  # four thousand million entries
        b"\x81\xa6params\xdd\x7f\xff\xff\xff" + bytes(99),  # a list of half as many
        b"\x81\xa6params\xc9\xff\xff\xff\xff\x01" + bytes(99),  # an array of four gigabytes
        b"\x81\xa6params" + b"\x81\xa1a" * 9000 + b"\x80",
        b"\x81\xa6params\x81\x90\x00",  # a list as a key
    ]
    for data in (*map(msgpack.packb, maps), deep, *damaged):
        file.write_bytes(data)
        assert ("not a readable flax" if data in damaged else "no checkpoint of MAE") in refusal(file)
