"""Linear probes on clips with one label, and with any number of labels."""

from __future__ import annotations

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
from sklearn.metrics import average_precision_score
from tiny_run import tiny_recipe

from hear_mwmae.audio import read_audio
from hear_mwmae.baselines import LogMelStatistics, untrained
from hear_mwmae.bootstrap import Estimate, bootstrap_counts
from hear_mwmae.cli import main
from hear_mwmae.probe import Predictions, average_precision, predict, probe, score, score_models
from hear_mwmae.tasks import Task, read_task
from hear_mwmae.training.loop import pretrain


class Rough:
    """Embeddings that know little of the audio."""

    sample_rate = 16000
    scene_embedding_size = 4

    def embed(self, clips):
        return torch.stack([self.scene(clip) for clip in clips])

    def scene(self, audio):
        values = [audio[100:900].std(), audio[40], audio[3000], audio.abs().mean() * 1000]
        return torch.stack(values)


@pytest.fixture(scope="module")
def tasks(task, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    return {
        "multiclass": task,
        "multilabel": make_task(folder / "multilabel", "multilabel", 0.5),
    }


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def cells(output: str) -> list[list[str]]:
    """The rows of a Markdown table."""
    lines = [line for line in output.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def rewrite(path: Path, change) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


@pytest.mark.parametrize(("kind", "splits"), [("multiclass", 3), ("multilabel", 1)])
def test_probe(tasks, small_config, kind, splits):
    task = read_task(tasks[kind])
    for model in (LogMelStatistics(), untrained(small_config)):
        scores = probe(task, model)
        assert len(scores) == splits and np.mean(scores) > 0.99


def ridge(x: np.ndarray, y: np.ndarray, tested: np.ndarray, penalty: float) -> np.ndarray:
    """Predictions (rows, labels) of ridge regression on standardised inputs, by its normal
    equations.
    """
    mean, std = x.mean(0, dtype=float), x.std(0, dtype=float)
    z = (x - mean) / std
    weights = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ (y - y.mean(0)))
    return (tested - mean) / std @ weights + y.mean(0)


def embedded(task: Task) -> list[np.ndarray]:
    return [
        np.stack([Rough().scene(read_audio(path, 16000)).numpy() for path in split])
        for split in task.splits
    ]


def test_all_models_are_scored_on_the_same_draws(tasks):
    (scores,) = score_models([read_task(tasks["multiclass"])], {"a": Rough(), "b": Rough()})
    assert (scores["b"] - scores["a"]).estimate == (0, 0, 0) and scores["a"].draws.std() > 0


def test_the_ridge_classifier_by_hand(tasks):
    """Its normal equations, with targets of 1 and -1, for each fold trained on the others."""
    task = read_task(tasks["multiclass"])
    x = embedded(task)
    y = [np.array([label for (label,) in split.values()]) for split in task.splits]
    for held_out, found in zip(task.tested, predict(task, Rough(), "ridge"), strict=True):
        inputs, labels = (np.concatenate(part[:held_out] + part[held_out + 1 :]) for part in (x, y))
        targets = np.where(labels[:, None] == np.unique(labels), 1.0, -1.0)
        scores = ridge(inputs, targets, x[held_out], inputs.shape[1])
        right = found.predicted == found.truth
        assert (found.truth == y[held_out]).all() and 0 < right.mean() < 1
        assert (found.predicted == np.unique(labels)[scores.argmax(1)]).all()


def test_any_number_of_labels_by_hand(tasks, tmp_path):
    """A label that only the tested split has, and one that it has not."""
    copied = shutil.copytree(tasks["multilabel"], tmp_path / "task")
    for split, alone in (("train", "only"), ("valid", "only"), ("test", "new")):
        rewrite(
            copied / f"{split}.json",
            lambda clips, alone=alone: {
                clip: [*labels, alone] if number % 4 == 1 else labels
                for number, (clip, labels) in enumerate(clips.items())
            },
        )
    task = read_task(copied)
    x = embedded(task)
    y = [
        np.array([[n in labels for n in task.labels] for labels in s.values()]) for s in task.splits
    ]
    rankings = ridge(np.concatenate(x[:2]), np.concatenate(y[:2]), x[2], 0.3 * 24)
    held = y[2].any(axis=0)
    expected = average_precision_score(y[2][:, held], rankings[:, held].round(9))
    (found,) = probe(task, Rough())
    assert task.labels == ["high", "low", "new", "only"]
    assert found == pytest.approx(expected, abs=1e-6) and found < 0.97


def test_the_log_mel_baseline():
    model, audio = LogMelStatistics(), read_audio(AUDIO / "crow.wav", 16000)[None]
    frames = model.frontend(audio)[0].double().numpy()
    assert np.allclose(
        model.scene_embeddings(audio)[0], [*frames.mean(0), *frames.std(0)], atol=1e-5
    )


def test_the_command(tasks, saved_model):
    """Each score with its interval, the means and their differences, and what was compared; a
    folder of tasks is all of them.
    """
    models = ["--model", f"one={saved_model}", "--baselines"]
    result = run("probe", tasks["multiclass"], tasks["multilabel"].parent, *models)
    assert result.exit_code == 0, result.output
    head, _, *rows = cells(result.output)
    assert head == ["task", "metric", "one", "untrained", "log-mel"]
    names = ["tones", "multilabel", "mean", "mean, minus one", "embedding size"]
    assert [row[0] for row in rows] == names
    assert [row[1] for row in rows[:2]] == ["accuracy", "mAP"]
    for row in rows[:3]:
        for cell in row[2:]:
            value, low, high = map(float, re.findall(r"[\d.]+", cell))
            assert low <= value <= high and value > 60
    assert rows[4][2:] == ["160", "160", "80"]
    assert "Pooling mean, classifier logistic." in result.output


def test_all_models_have_one_pooling(tasks, saved_model):
    """Models of different poolings are refused, until one is given; baselines follow the models."""
    models = [f"one={saved_model}", "", "log-mel"]
    arguments = ["probe", tasks["multiclass"], *(w for name in models for w in ("--model", name))]
    result = run(*arguments)
    assert result.exit_code == 1
    assert "poolings differ (one: mean, embedded: mean+std+max)" in result.output
    *_, sizes = cells(run(*arguments, "--pooling", "mean+max", "--classifier", "ridge").output)
    assert sizes[2:] == ["320", "2560", "320"]


def test_average_precision_is_scikit_learns():
    """With weights, ties, and a draw that holds no positive row."""
    rng = np.random.default_rng(0)
    truth = rng.random(50) < 0.3
    ranking, weights = rng.integers(0, 12, 50).astype(float), rng.integers(0, 3, (20, 50))
    expected = [average_precision_score(truth, ranking, sample_weight=draw) for draw in weights]
    assert average_precision(truth, ranking, weights) == pytest.approx(expected)
    assert np.isnan(average_precision(truth, ranking, ~truth[None] * 1)).all()


def test_intervals_cover_the_true_mean_as_often_as_they_should():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        clips = rng.exponential(size=60)
        estimate = Estimate.of(clips.mean(), bootstrap_counts(60, 300, seed) @ clips / 60)
        covered += estimate.low <= 1 <= estimate.high
    assert 0.88 < covered / 200 < 0.98  # 95 %, a little less for skewed values


def test_intervals_are_those_of_the_clips():
    """Of 320 right clips in 400, the standard error is 2 points; equal seeds draw the same clips
    for all models.
    """
    clips = Predictions(np.full(400, "a"), np.where(np.arange(400) < 320, "a", "b"))
    one, same = score([clips], 0), score([clips], 0)
    value, low, high = one.estimate
    assert value == 80 and (low, high) == pytest.approx((80 - 3.92, 80 + 3.92), abs=0.4)
    assert (one - same).estimate == (0, 0, 0)
    assert np.abs((one - score([clips], 1)).draws).max() > 2


def test_a_model_of_another_rate_hears_audio_of_its_rate(task, tmp_path):
    """And labels may be numbers, as HEAR writes pitches."""
    copied = shutil.copytree(task, tmp_path / "task")
    for fold in copied.glob("fold0?.json"):
        rewrite(fold, lambda clips: {clip: [60 + (one == ["low"])] for clip, one in clips.items()})
    model = LogMelStatistics()
    model.sample_rate, heard = 8000, []
    model.embed = lambda clips: heard.extend(map(len, clips)) or torch.rand(len(clips), 2)
    probe(read_task(copied), model)
    assert set(heard) == {4000} and read_task(copied).labels == ["60", "61"]


def label(path: Path, labels: list) -> None:
    """Every clip of the split like that."""
    rewrite(path, lambda clips: dict.fromkeys(clips, labels))


def set_metadata(task: Path, **values: object) -> None:
    rewrite(task / "task_metadata.json", lambda metadata: metadata | values)


DAMAGES = {
    "a list of splits": lambda t: (t / "task_metadata.json").write_text("{}"),
    "fold01.json": lambda t: (t / "fold01.json").unlink(),
    "scene multilabel, not event multilabel": lambda t: set_metadata(
        t, embedding_type="event", prediction_type="multilabel"
    ),
    "1 of 12 files missing": lambda t: (t / "16000" / "fold02" / "fold02-0.wav").unlink(),
    "1 of 12 files unreadable": lambda t: (t / "16000/fold02/fold02-0.wav").write_bytes(b"none"),
    "all clips have the label": lambda t: [label(f, ["low"]) for f in t.glob("fold0?.json")],
    "one name": lambda t: label(t / "fold01.json", ["low", "high"]),
    "not the name": lambda t: rewrite(t / "fold01.json", lambda clips: {"../x.wav": ["low"]}),
    "two splits or more": lambda t: set_metadata(t, splits=["fold01"]),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_task_that_cannot_be_probed_is_refused(task, tmp_path, message):
    copied = shutil.copytree(task, tmp_path / "task")
    DAMAGES[message](copied)
    result = run("probe", copied)
    assert result.exit_code == 1 and "not a HEAR task that can be learned" in result.output
    assert message in result.output and len(result.output.splitlines()) == 1


def test_a_run_refuses_such_a_task_before_it_begins(data, task, tmp_path):
    copied = shutil.copytree(task, tmp_path / "task")
    (copied / "fold01.json").unlink()
    with pytest.raises(ValueError, match="not a HEAR task that can be learned"):
        pretrain(tiny_recipe(tmp_path), data, tmp_path / "run", eval_every=4, tasks=(copied,))
    assert not (tmp_path / "run").exists()
