"""Checkpoints of the authors' JAX code: what flax writes, written here by hand, and what is wrong
with damaged ones.
"""

import dataclasses
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from flax_writer import ext, ones, packed, random_state, shapes_only, train_state
from reference import AUDIO

import hear_mwmae
from hear_mwmae import HearMwmaeError
from hear_mwmae.cli import main
from hear_mwmae.config import (
    DecoderConfig,
    EncoderConfig,
    ModelConfig,
    derive_window_sizes,
    preset,
    preset_names,
)
from hear_mwmae.official import infer_config, load_official

WINDOWS = derive_window_sizes(250)


def small(encoder: tuple[int, ...] = (), decoder: tuple[int, ...] = WINDOWS) -> ModelConfig:
    """48 wide, whose three encoder heads are inferred."""
    return ModelConfig(
        EncoderConfig(48, 2, 3, window_sizes=encoder),
        DecoderConfig(48, 2, len(decoder) or 8, window_sizes=decoder),
    )


PLAIN = ModelConfig(EncoderConfig(48, 2, 3, cls_token=True), DecoderConfig(48, 1, 8))
KINDS = {
    "mwmae": small(),
    "mae": PLAIN,
    "8x16": dataclasses.replace(small(decoder=(5, 25, 0, 0)), patch_size=(8, 16)),
    "encoder windows": small(encoder=(5, 10, 0)),
    "another order": small(decoder=(0, 125, 2, 0, 50, 10, 25, 5)),
}


@pytest.fixture
def leaves() -> dict[str, object]:
    return packed(KINDS["mwmae"], random_state(KINDS["mwmae"]))


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "checkpoint_198400"


def test_presets_are_inferred():
    for name in preset_names():
        assert infer_config(shapes_only(preset(name))) == preset(name)


def test_heads_that_leave_no_trace():
    assert infer_config(shapes_only(small()), encoder_heads=12).encoder.heads == 12
    windowed = shapes_only(small(encoder=(5, 10, 0)))
    assert infer_config(windowed, encoder_heads=4).encoder.window_sizes == (5, 10, 0, 0)
    with pytest.raises(HearMwmaeError, match="width 48 is not divisible by 5 heads"):
        infer_config(windowed, encoder_heads=5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind, file):
    config, state = KINDS[kind], random_state(KINDS[kind])
    file.write_bytes(train_state(packed(config, state)))
    actual_config, actual = load_official(file)
    assert actual_config == config and actual.keys() == state.keys()
    for name, value in actual.items():
        assert value.dtype == torch.float32 and torch.equal(value, state[name])


def test_containers(tmp_path, leaves):
    config = KINDS["mwmae"]
    # orbax of 2023: None for what is empty, lists in the optimizer's state
    lists = [{"mu": msgpack.ExtType(1, b"")}, None]
    orbax = train_state(leaves, opt_state=lists, batch_stats=None, frozen_params=None)
    frozen = {"pos_embed": leaves.pop("pos_embed")}
    files = {
        "orbax/checkpoint": orbax,
        "orbax/_METADATA": b"{}",
        "steps/checkpoint_100/checkpoint": orbax,
        "steps/config.json": b"{}",  # the authors' own
        "legacy/checkpoint_9": b"\x81",
        "legacy/checkpoint_10": orbax,
        "frozen/checkpoint": train_state(leaves, frozen_params=frozen),
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    for directory in ("orbax", "steps", "steps/checkpoint_100", "legacy", "frozen"):
        assert load_official(tmp_path / directory)[0] == config
        assert hear_mwmae.load_model(str(tmp_path / directory)).encoder.config == config


def test_convert(tmp_path, leaves):
    source = tmp_path / "work"
    source.mkdir()
    (source / "checkpoint_7").write_bytes(train_state(leaves))
    result = CliRunner().invoke(main, ["convert", str(source), str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    assert "3 heads in the encoder, 8 in the decoder" in result.output
    audio = torch.rand(2, 20000) * 2 - 1
    direct, converted = map(hear_mwmae.load_model, (source, tmp_path / "model"))
    assert torch.equal(direct(audio), converted(audio))
    # Converted in place, with another number of heads: that is what counts from then on.
    command = ["convert", str(source), str(source), "--encoder-heads", "4"]
    assert CliRunner().invoke(main, command).exit_code == 0
    assert hear_mwmae.load_model(source).config.encoder.heads == 4
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 1 and f"{source} holds a model: " in refused.stderr


def refusal(path: Path) -> str:
    """The line with which ``path`` is refused by the command."""
    result = CliRunner().invoke(main, ["convert", str(path), f"{path}.converted"])
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1
    assert str(path) in result.stderr and not Path(f"{path}.converted").exists()
    return result.stderr


def test_other_files(tmp_path, leaves):
    torch.save({"params": torch.zeros(2)}, tmp_path / "weights.pt")
    (tmp_path / "empty").touch()
    (tmp_path / "truncated").write_bytes(train_state(leaves)[:-9])
    for path in (AUDIO / "crow.wav", *tmp_path.iterdir()):
        assert "not a readable flax checkpoint" in refusal(path)
    (tmp_path / "folder").mkdir()
    assert "no flax checkpoint" in refusal(tmp_path / "folder")


BIAS = "encoder_norm/bias"
TABLE = "decoder_block_00/wmha_block/attn_heads_{}/relative_position_bias_table"


@pytest.mark.parametrize(
    ("path", "leaf", "words"),
    [
        (
            "encoder_block_07/LayerNorm_0/bias",
            ones(48),
            'Missing key(s) in state_dict: "encoder.blocks.2.norm1.weight"',
        ),
        (TABLE.format(999), ones(3, 1), "width 48 is not divisible by 1000 heads"),
        ("pos_embed", ones(1, 251, 48), "251 positions"),
        (BIAS, ext(np.array([1] * 47 + [np.nan], "f4")), "norm.bias does not hold finite"),
        (BIAS, ext(np.ones(48, "i4")), "an array of 'int32'"),
        (
            BIAS,
            msgpack.ExtType(1, msgpack.packb(([2**40], "float32", b""))),
            "damaged or truncated",
        ),
        (BIAS, "PLACEHOLDER://params.pos_embed", "not an array"),
    ],
)
def test_wrong_parameters(path, leaf, words, file, leaves):
    file.write_bytes(train_state(leaves | {path: leaf}))
    assert words in refusal(file)
