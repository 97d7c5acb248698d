"""What one sees of a run: pictures and probes on the way, and the card of a finished one."""

from __future__ import annotations

import dataclasses
import shutil
from types import SimpleNamespace

import matplotlib.image
import pytest
import torch
from safetensors.torch import load_file
from tiny_run import tiny_recipe

from hear_mwmae.mae import reconstruction
from hear_mwmae.patches import patchify, random_masking
from hear_mwmae.training import progress
from hear_mwmae.training.checkpoints import newest_checkpoint
from hear_mwmae.training.loop import pretrain


def test_a_watched_run_is_like_any_other(data, task, tmp_path):
    """Pictures, probes and TensorBoard files are written, and the weights are those of a run that
    nobody looked at.
    """
    recipe = tiny_recipe(tmp_path)
    half = dataclasses.replace(recipe, steps=9)
    for settings in (half, recipe):  # the second goes on where the first ended
        pretrain(settings, data, tmp_path / "watched", look_every=4, tasks=(task,))
    pictures = sorted((tmp_path / "watched" / "pictures").iterdir())
    assert [picture.name for picture in pictures] == [f"step-{step:06d}.png" for step in (4, 8, 9, 12)]
    assert matplotlib.image.imread(pictures[0]).std() > 0.1
    assert list((tmp_path / "watched" / "tensorboard").glob("events*"))
    header, *probes = [line.split(",") for line in (tmp_path / "watched" / "probes.csv").read_text().split()]
    assert header == ["step", "task", "metric", "score"]
    assert [row[:3] for row in probes] == [[step, "tones", "accuracy"] for step in ("4", "8", "9", "12")]
    assert all(0.3 <= float(score) <= 1 for *_, score in probes)
    fresh = tmp_path / "half"
    pretrain(half, data, fresh)
    pretrain(recipe, data, fresh)
    plain, watched = (load_file(run / "model" / "model.safetensors") for run in (fresh, tmp_path / "watched"))
    assert all(torch.equal(plain[name], watched[name]) for name in plain)


def test_a_look_that_fails_loses_nothing(data, tmp_path, monkeypatch):
    """Neither steps nor, when the run goes on, the picture."""
    recipe = tiny_recipe(tmp_path, checkpoint_every=6)
    monkeypatch.setattr(progress, "_write_png", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        pretrain(recipe, data, tmp_path / "run", look_every=4)
    assert newest_checkpoint(tmp_path / "run").name == "step-00000004.pt"
    monkeypatch.undo()
    pretrain(recipe, data, tmp_path / "run", look_every=4)
    assert [picture.name[-6:-4] for picture in sorted((tmp_path / "run" / "pictures").iterdir())] == ["04", "08", "12"]


def test_a_probe_that_fails_ends_no_run(data, task, tmp_path, capsys):
    """And probes are kept when the run goes on with others, or none; rows of other columns are not
    thrown away.
    """
    broken = shutil.copytree(task, tmp_path / "broken")
    clip = next((broken / "16000" / "fold01").iterdir())
    clip.write_bytes(clip.read_bytes()[:2000])
    recipe = tiny_recipe(tmp_path)
    pretrain(dataclasses.replace(recipe, steps=9), data, tmp_path / "run", look_every=20, tasks=(broken, task))
    assert f"no probe of broken after step 9: {clip}: truncated" in capsys.readouterr().err
    probes = tmp_path / "run" / "probes.csv"
    (first,) = probes.read_text().splitlines()[1:]
    assert first.startswith("9,tones,accuracy,")
    pretrain(recipe, data, tmp_path / "run", look_every=20, tasks=(shutil.copytree(task, tmp_path / "same"),))
    pretrain(recipe, data, tmp_path / "run", look_every=20, tasks=(task,))
    assert [row.split(",")[:2] for row in probes.read_text().splitlines()[1:]] == [
        ["9", "tones"],
        ["12", "same"],
        ["12", "tones"],
    ]
    with pytest.raises(ValueError, match="one name"):
        pretrain(recipe, data, tmp_path / "run", look_every=20, tasks=(task, shutil.copytree(task, tmp_path / "x" / "tones")))
    probes.write_text("step,task,accuracy\n12,tones,1.0\n")
    with pytest.raises(ValueError, match="has other columns than step,task,metric,score"):
        pretrain(recipe, data, tmp_path / "run", look_every=20, tasks=(task,))
    assert "12,tones,1.0" in probes.read_text()


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_reconstructions(small_config, norm_pix_loss):
    """A perfect prediction gives back the target; what was not masked is shown, what was is not."""
    config = dataclasses.replace(small_config, norm_pix_loss=norm_pix_loss)
    clips, noise = torch.randn(2, 200, 80), torch.rand(2, 250)
    target = patchify(clips, config.patch_size)
    if norm_pix_loss:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
    *_, mask, _ = random_masking(target, config.num_kept, noise)
    hidden, whole, shown = reconstruction(config, lambda *_: SimpleNamespace(mask=mask, pred=target), clips, noise)
    assert torch.equal(shown, clips) and torch.allclose(whole, clips, atol=1e-4)
    assert hidden.isnan().float().mean() == pytest.approx(0.8) and torch.equal(hidden[~hidden.isnan()], clips[~hidden.isnan()])
