"""Configurations: bounds, JSON of any origin, and what frozen dataclasses do."""

import dataclasses
import json

import pytest

from hear_mwmae import HearMwmaeError
from hear_mwmae.config import (
    DecoderConfig,
    EncoderConfig,
    FrontendConfig,
    ModelConfig,
    preset,
    preset_names,
)

ENCODER = EncoderConfig(64, 1, 2)


def test_json_round_trip():
    for name in preset_names():
        config = preset(name, (8, 8))
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_keys_that_are_left_out_have_their_defaults():
    config = ModelConfig.from_dict({"encoder": {"width": 64, "depth": 1, "heads": 2}})
    assert config == ModelConfig(ENCODER, frontend=FrontendConfig(), pooling="mean")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EncoderConfig(190, 12, 3), "width 190 is not divisible by 3 heads"),
        (lambda: EncoderConfig(6, 1, 3), "width 6 is not a multiple of 4"),
        (lambda: ModelConfig(preset("mae-tiny").encoder, preset("mwmae-tiny").decoder), "CLS"),
        (lambda: EncoderConfig(64, 1, 2, cls_token=True, window_sizes=(2, 0)), "CLS token"),
        (lambda: DecoderConfig(63, 1, 3), "width 63 is not even"),
        (lambda: DecoderConfig(64, 1, 2, shift_windows=True), "shift_windows needs window_sizes"),
        (lambda: DecoderConfig(64, 1, 2, window_sizes=(2, 5, 0)), "2 heads, but 3 window_sizes"),
        (
            lambda: ModelConfig(EncoderConfig(64, 1, 2, window_sizes=(125, 0))),
            r"\[125\] do not divide its 50 tokens",
        ),
        (lambda: FrontendConfig(win_lengths=(100,)), "leaves gaps"),
        (lambda: ModelConfig(ENCODER, patch_size=(7, 16)), "7 x 16 do not tile 200 frames x 80"),
        (
            lambda: ModelConfig(ENCODER, DecoderConfig(64, 1, 2, window_sizes=(3, 0))),
            r"decoder windows \[3\] do not divide its 250",
        ),
        (lambda: ModelConfig(ENCODER, mask_ratio=1e-9), "keeps (249|250) of 250 tokens"),
        (lambda: FrontendConfig(f_max=9000.0), "50.0-9000.0 Hz must lie within 0-8000.0 Hz"),
        (lambda: dataclasses.replace(preset("mae-tiny"), pooling="mean+mode"), "got 'mean.mode'"),
        (lambda: preset("mae_small"), "unknown preset 'mae_small'"),
    ],
)
def test_nonsense_is_refused_with_the_numbers(build, message):
    with pytest.raises(HearMwmaeError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"color": "red"}, "color: Unexpected keyword argument"),
        ({"encoder": {"width": 64, "depth": 1}}, "encoder.heads: Field required"),
        ({"mask_ratio": "0.8"}, "mask_ratio should be a valid number, got '0.8'"),
        ({"frontend": {"win_lengths": [10**15]}}, "frontend.win_lengths.0 should be less than"),
    ],
)
def test_json_of_any_origin_is_refused_by_its_key(change, message):
    with pytest.raises(HearMwmaeError) as caught:
        ModelConfig.from_dict(preset("mwmae-tiny").to_dict() | change)
    assert message in str(caught.value) and "\n" not in str(caught.value)
