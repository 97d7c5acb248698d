"""What one sees of a run: pictures and probes on the way, and the card of a finished one."""

from __future__ import annotations

import dataclasses
import re
import shutil
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tiny_run import tiny_recipe, write_recipe

import hear_mwmae
from hear_mwmae.cli import main
from hear_mwmae.data.pack import Pack
from hear_mwmae.data.packing import pack
from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.mae import reconstruction
from hear_mwmae.patches import patchify, random_masking
from hear_mwmae.probing.comparison import compare_kinds
from hear_mwmae.probing.linear_probe import Classified
from hear_mwmae.training import progress
from hear_mwmae.training.checkpoints import newest_checkpoint
from hear_mwmae.training.loop import pretrain
from hear_mwmae.training.publish import describe_data, read_log
from hear_mwmae.training.recipe import Recipe


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


def test_bootstrap():
    def bootstrap(*kinds: list) -> dict:
        return compare_kinds(*([[Classified(right) for right in model] for model in kind] for kind in kinds))

    rng = np.random.default_rng(0)
    coin, better = ([rng.random(400) < chance for _ in range(5)] for chance in (0.5, 0.7))
    same = bootstrap([coin], [coin])
    assert same["b - a"] == (0, 0, 0)
    score, low, high = same["a"]
    assert score == pytest.approx(100 * np.mean(coin)) and high - low == pytest.approx(
        2 * 1.96 * 100 * np.sqrt(0.25 / 2000), rel=0.1
    )
    score, low, high = bootstrap([coin, coin], [better])["b - a"]
    assert 15 < low < score < high < 25
    one, other = bootstrap([coin], [better]), bootstrap([coin, better], [better])
    assert other["a"][2] - other["a"][1] > 2 * (one["a"][2] - one["a"][1])  # seeds that differ widen the interval


def test_compare(task, data, tmp_path):
    model = pretrain(tiny_recipe(tmp_path), data, tmp_path / "run")
    result = CliRunner().invoke(main, ["compare", str(task), "-a", str(model), "-b", "", "-b", str(model)])
    assert result.exit_code == 0, result.output
    assert [line.split()[1] for line in result.output.splitlines()[-3:]] == ["a", "b", "b"] and "[" in result.output
    failed = CliRunner().invoke(main, ["compare", str(task), "-a", "", "-b", "", "--pooling", "median"])
    assert failed.exit_code == 1 and "median" in failed.output  # the option reaches the models


def test_publish_a_finished_run(data, task, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.toml")
    pretrain(Recipe.read(recipe), data, tmp_path / "run")
    (tmp_path / "limits").write_text("Knows three clips.\n")
    arguments = [recipe, data, tmp_path / "run", task, "-o", tmp_path / "out", "--limits", tmp_path / "limits"]
    arguments += ["--hardware", "two cores", "--licence", "cc0-1.0", "--origin", "Recorded at home.", "--dataset", "own"]
    arguments += ["--pooling", "mean+max"]
    result = CliRunner().invoke(main, ["publish", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    card = re.sub(" +", " ", (tmp_path / "out" / "README.md").read_text())
    assert (
        "license: cc0-1.0" in card
        and "- own\n" in card
        and "Recorded at home." in card
        and "hear-mwmae publish recipe PACK" in card
    )
    assert "| some-package | 1.0 | CC0-1.0 | effects 0.00, notes 0.01 |" in card
    assert (
        "12 steps of 8 crops" in card
        and "minutes on two cores;" in card
        and "- Knows three clips." in card
        and "| tones | accuracy | " in card
    )
    assert "![Loss by step](loss.png)" in card and matplotlib.image.imread(tmp_path / "out" / "loss.png").std() > 0.05
    config, state = hear_mwmae.checkpoint.read_model(tmp_path / "out")
    assert config.pooling == "mean+max" and "| paper pooling |" in card
    assert {value.dtype for value in state.values()} == {torch.float16}
    for change, message in (("steps=50", "not finished"), ("batch_size=16", "belongs to another recipe")):
        result = CliRunner().invoke(main, ["publish", *map(str, [*arguments, "--set", change])])
        assert result.exit_code == 1 and message in result.output
    # What was published stays as it is when publishing anew fails.
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    shutil.copytree(task, tmp_path / "bad")
    next((tmp_path / "bad" / "16000" / "fold01").iterdir()).write_bytes(b"no audio")
    for failing in ([str(tmp_path / "bad")], ["--limits", str(task / "16000")]):
        assert CliRunner().invoke(main, ["publish", *map(str, arguments), *failing]).exit_code != 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_card_names_where_its_data_come_from(data, audio_folder, tmp_path):
    """Of what the run drew from: not of other kinds, nor of what the manifest lists and the pack
    skipped.
    """
    card = re.sub(" +", " ", describe_data(Pack(data), tiny_recipe(tmp_path, kinds={"notes": 1.0}), "From somewhere."))
    hours = Pack(data).clips["samples"][Pack(data).clips["kind"] == Pack(data).kinds.index("notes")].sum() / 16000 / 3600
    assert card.startswith(f"{hours:.1f} hours of audio from 1 package: notes 0.0 h. From somewhere.") and "effects" not in card
    assert f"| some-package | 1.0 | CC0-1.0 | notes {hours:.2f} |" in card


@pytest.mark.parametrize(
    ("manifest", "table"),
    [
        ("path,kind\nlong.flac,notes\ncrow.flac,birds\n", None),
        ("path,package\nlong.flac,p\ncrow.flac,\n", ["package | hours", "p | audio 0.01", "not stated | audio 0.00"]),
        ("path,license\nlong.flac,CC0\ncrow.flac,\n", ["licence | hours", "CC0 | audio 0.01", "not stated | audio 0.00"]),
        ("path,licence\nlong.flac,a|b\n", ["licence | hours", "a\\|b | audio 0.01"]),
    ],
)
def test_a_card_of_audio_from_anywhere(audio_folder, tmp_path, manifest, table):
    """That no package or licence is known is no reason to have no card; that no licence is, is
    said.
    """
    for name in ("long.flac", "crow.flac"):
        shutil.copy(audio_folder / name, tmp_path)
    (tmp_path / "own.csv").write_text(manifest)
    pack([str(tmp_path / "own.csv")], tmp_path / "pack")
    lines = describe_data(Pack(tmp_path / "pack"), tiny_recipe(tmp_path, kinds={}), "Recorded at home.").splitlines()
    assert lines[0].startswith("0.0 hours of audio") and lines[0].endswith(". Recorded at home.")
    assert [re.sub(" +", " ", line).strip("| ") for line in lines if line.startswith("| ")] == (table or [])
    assert ("Licence of the audio: not stated." in lines) == ("licen" not in manifest)


def test_a_damaged_log_is_named(tmp_path):
    for content in (b"step,loss\n0,1.0\n", b"step,loss,seconds\n0,x,1\n", b"\xff\xfe"):
        (tmp_path / "log.csv").write_bytes(content)
        with pytest.raises(HearMwmaeError, match=r"log\.csv is no log of a run"):
            read_log(tmp_path)
