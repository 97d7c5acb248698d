"""Linear probes, their intervals and baselines, and the tasks that they read."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hear_tasks import make_task
from reference import AUDIO

from hear_mwmae.audio import read_audio
from hear_mwmae.baselines import LogMelStatistics, load_models, untrained
from hear_mwmae.cli import main
from hear_mwmae.probe import Score, embed_splits, right_answers
from hear_mwmae.tasks import read_task


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def cells(output: str) -> list[list[str]]:
    """The rows of a Markdown table."""
    lines = [line for line in output.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def rewrite(path: Path, change) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def set_metadata(task: Path, **values: object) -> None:
    rewrite(task / "task_metadata.json", lambda metadata: metadata | values)


def train_valid_test(task: Path) -> None:
    """The folds under other names, of which the last is tested."""
    for fold, split in (("fold00", "train"), ("fold01", "valid"), ("fold02", "test")):
        (task / f"{fold}.json").rename(task / f"{split}.json")
        (task / "16000" / fold).rename(task / "16000" / split)
    set_metadata(task, split_mode="trainvaltest", splits=["train", "valid", "test"])


@pytest.mark.parametrize("folds", [True, False])
def test_the_ridge_classifier_by_hand(task, tmp_path, folds):
    """Its normal equations on standardised inputs, with targets of 1 and -1, for each fold trained
    on the others, or for the test split alone.
    """
    folder = shutil.copytree(task, tmp_path / "task")
    if not folds:
        train_valid_test(folder)
    read = read_task(folder)
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(12, 60)) for _ in range(3)]  # where the penalty decides
    y = [np.array([label for (label,) in split.values()]) for split in read.splits]
    for split, labels in zip(x, y, strict=True):
        split[:, 2] += 2.0 * (labels == "high")
        split[:, 2] *= 0.01  # of another scale, which is standardised
    found = right_answers(read, x, "ridge")
    tested = [0, 1, 2] if folds else [2]
    for held_out, right in zip(tested, found, strict=True):
        others = [number for number in range(3) if number != held_out]
        inputs = np.concatenate([x[number] for number in others])
        targets = np.where(np.concatenate([y[number] for number in others]) == "high", 1.0, -1.0)
        z = (inputs - inputs.mean(0)) / inputs.std(0)
        weights = np.linalg.solve(z.T @ z + 60 * np.eye(60), z.T @ (targets - targets.mean()))
        ranking = (x[held_out] - inputs.mean(0)) / inputs.std(0) @ weights + targets.mean()
        assert (right == ((ranking > 0) == (y[held_out] == "high"))).all()
        assert 0 < right.mean() < 1


def test_the_log_mel_baseline():
    model, audio = LogMelStatistics(), read_audio(AUDIO / "crow.wav", 16000)[None]
    frames = model.frontend(audio)[0].double().numpy()
    assert np.allclose(model(audio)[0], [*frames.mean(0), *frames.std(0)], atol=1e-5)


def test_untrained_models_are_always_the_same(small_config):
    state = torch.get_rng_state()
    one = untrained(small_config).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    other = untrained(small_config).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    models, pooling = load_models({"a": "untrained", "b": "log-mel"}, "max")
    assert [model.scene_embedding_size for model in models.values()] == [1280, 160]
    assert pooling == "max"


def test_the_command(task, tmp_path, saved_model):
    """Each score with its interval, the means and their differences, and what was compared. A
    folder of tasks is all of them. All models are scored on the same draws of the clips.
    """
    for name in ("more", "tones"):
        shutil.copytree(task, tmp_path / name)
    models = ["--model", f"one={saved_model}", "--model", f"same={saved_model}", "--baselines"]
    result = run("probe", tmp_path, *models)
    assert result.exit_code == 0, result.output
    head, _, *rows = cells(result.output)
    assert head == ["task", "one", "same", "untrained", "log-mel"]
    names = ["more", "tones", "mean", "mean, minus one", "embedding size"]
    assert [row[0] for row in rows] == names
    for row in rows[:3]:
        for cell in row[1:]:
            value, low, high = map(float, re.findall(r"[\d.]+", cell))
            assert low <= value <= high and value > 60
    assert rows[3][1:3] == ["", "0.0 [0.0, 0.0]"]
    assert rows[4][1:] == ["160", "160", "160", "80"]
    assert "Pooling mean, classifier logistic." in result.output


def test_all_models_have_one_pooling(task, saved_model):
    """Models of different poolings are refused, until one is given; baselines follow the first
    trained model.
    """
    models = ["log-mel", f"one={saved_model}", ""]
    arguments = ["probe", task, *(word for name in models for word in ("--model", name))]
    result = run(*arguments)
    assert result.exit_code == 1
    assert "poolings differ (one: mean, embedded: mean+std+max)" in result.output
    *_, sizes = cells(run(*arguments, "--pooling", "mean+max", "--classifier", "ridge").output)
    assert sizes[1:] == ["160", "320", "2560"]


def test_intervals_cover_the_true_mean_as_often_as_they_should():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        _, low, high = Score.of([rng.exponential(size=60)], seed).estimate
        covered += low <= 100 <= high
    assert 0.88 < covered / 200 < 0.98  # 95 %, a little less for skewed values


def test_intervals_are_those_of_the_clips():
    """Of 320 right clips in 400, the standard error is 2 points; equal seeds draw the same clips
    for all models.
    """
    clips = np.arange(400) < 320
    one, same = Score.of([clips], 0), Score.of([clips], 0)
    value, low, high = one.estimate
    assert value == 80 and (low, high) == pytest.approx((80 - 3.92, 80 + 3.92), abs=0.4)
    assert (one - same).estimate == (0, 0, 0)
    assert Score(80, one.draws + 5).estimate == pytest.approx(one.estimate)  # draws with a bias
    assert np.abs((one - Score.of([clips], 1)).draws).max() > 2


def test_a_model_of_another_rate_hears_audio_of_its_rate(task, tmp_path):
    """And labels may be numbers, as HEAR writes pitches."""
    copied = shutil.copytree(task, tmp_path / "task")
    for fold in copied.glob("fold0?.json"):
        rewrite(fold, lambda clips: {clip: [60 + (one == ["low"])] for clip, one in clips.items()})
    model = LogMelStatistics()
    model.sample_rate, heard = 8000, []
    model.embed = lambda clips: heard.extend(map(len, clips)) or torch.rand(len(clips), 2)
    read = read_task(copied)
    assert [len(split) for split in embed_splits(read, model, "")] == [12, 12, 12]
    assert set(heard) == {4000} and read.labels == ["60", "61"]


def label(path: Path, labels: list) -> None:
    """Every clip of the split like that."""
    rewrite(path, lambda clips: dict.fromkeys(clips, labels))


DAMAGES = {
    "embedding_type should be 'scene', got 'event'": lambda t: set_metadata(
        t, embedding_type="event"
    ),
    "splits: List should have at least 2 items": lambda t: set_metadata(t, splits=["fold01"]),
    "the splits must differ": lambda t: set_metadata(t, splits=["fold01", "fold02", "fold01"]),
    "there is no split test": lambda t: set_metadata(t, split_mode="trainvaltest"),
    "fold01.json: No such file": lambda t: (t / "fold01.json").unlink(),
    "1 of 12 files missing": lambda t: (t / "16000" / "fold02" / "fold02-0.wav").unlink(),
    "all clips have the label": lambda t: [label(f, ["low"]) for f in t.glob("fold0?.json")],
    "at most 1 item": lambda t: label(t / "fold01.json", ["low", "high"]),
    "'../x.wav'": lambda t: rewrite(t / "fold01.json", lambda _: {"../x.wav": ["low"]}),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_task_that_cannot_be_probed_is_refused(task, tmp_path, message):
    copied = shutil.copytree(task, tmp_path / "task")
    DAMAGES[message](copied)
    result = run("probe", copied)
    assert result.exit_code == 1 and len(result.output.splitlines()) == 1
    assert str(copied) in result.output and message in result.output


def test_a_task_with_several_labels_per_clip_is_refused(tmp_path):
    result = run("probe", make_task(tmp_path / "task", "multilabel", 0.1))
    assert result.exit_code == 1 and len(result.output.splitlines()) == 1
    assert "the probes take one label per clip, `python -m eval` runs the other" in result.output
