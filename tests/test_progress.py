"""Probes while a run goes on."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import probes, tiny_recipe

from hear_mwmae.training.loop import pretrain


def test_a_probed_run_is_like_any_other(data, task, tmp_path):
    """The weights are those of a run that was not probed, also where the run goes on."""
    recipe = tiny_recipe(tmp_path, steps=6)
    half = dataclasses.replace(recipe, steps=5)
    for settings in (half, recipe):
        pretrain(settings, data, tmp_path / "plain")
        pretrain(settings, data, tmp_path / "probed", eval_every=2, tasks=(task,))
    assert probes(tmp_path / "probed", "tones") == [2, 4, 5, 6]
    plain, probed = (
        load_file(tmp_path / run / "model" / "model.safetensors") for run in ("plain", "probed")
    )
    assert all(torch.equal(plain[name], probed[name]) for name in plain)


def test_a_probe_that_fails_ends_no_run(data, task, tmp_path, capsys):
    broken = shutil.copytree(task, tmp_path / "broken")
    clip = next((broken / "16000" / "fold01").iterdir())
    clip.write_bytes(clip.read_bytes()[:2000])
    pretrain(tiny_recipe(tmp_path, steps=2), data, tmp_path / "run", tasks=(broken, task))
    assert f"no probe of broken: {clip}" in capsys.readouterr().err
    assert probes(tmp_path / "run", "tones") == [2]


def test_tasks_that_cannot_be_told_apart(data, task, tmp_path):
    same = shutil.copytree(task, tmp_path / "x" / "tones")
    with pytest.raises(ValueError, match="one name"):
        pretrain(tiny_recipe(tmp_path), data, tmp_path / "run", tasks=(task, same))
    fsdp = tiny_recipe(tmp_path, strategy="fsdp", optimizer="adamw")
    with pytest.raises(ValueError, match="fsdp cuts into pieces"):
        pretrain(fsdp, data, tmp_path / "run", tasks=(task,))
