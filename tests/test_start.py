"""Runs that start from other models."""

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import log, tiny_recipe

from hear_mwmae.mae import MaskedAutoencoder
from hear_mwmae.training.fabric import make_fabric
from hear_mwmae.training.loop import begin, pretrain
from hear_mwmae.weights import read_model


def test_start_from(data, tmp_path):
    """A run may begin with the weights of another, whatever has become of them once it has begun;
    never with other sizes.
    """
    pretrain(tiny_recipe(tmp_path, steps=2), data, tmp_path / "first")
    model = tmp_path / "first" / "model"
    still = {"base_learning_rate": 0.0, "base_muon_learning_rate": 0.0}
    recipe = tiny_recipe(tmp_path, start_from=str(model), steps=2, **still)
    pretrain(recipe, data, tmp_path / "second")
    first, second = (
        load_file(tmp_path / run / "model" / "model.safetensors") for run in ("first", "second")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    wider = recipe.model | {"decoder": {"width": 64, "depth": 1}}
    with pytest.raises(ValueError, match=r"another architecture .*decoder.width is 32, not 64"):
        pretrain(dataclasses.replace(recipe, model=wider), data, tmp_path / "third")
    shutil.rmtree(model)
    pretrain(dataclasses.replace(recipe, steps=4), data, tmp_path / "second")
    assert len(log(tmp_path / "second")) == 4


def test_start_from_nothing_is_the_embedded_model(tmp_path):
    """As everywhere that a model is named."""
    recipe = tiny_recipe(tmp_path, model=read_model("")[0].to_dict(), start_from="")
    expected = MaskedAutoencoder.from_pretrained("").state_dict()
    begun = begin(make_fabric(recipe, "cpu"), recipe, tmp_path)["model"].state_dict()
    assert all(torch.equal(value.float(), expected[name].float()) for name, value in begun.items())
