"""Linear probes on the three kinds of tasks that HEAR has."""

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
from hear_mwmae.probe import Predictions, average_precision, predict, probe, score
from hear_mwmae.tasks import read_task
from hear_mwmae.training.loop import pretrain


class Rough:
    """Embeddings that know little of the audio, at timestamps of its own."""

    sample_rate = 16000
    scene_embedding_size, timestamp_embedding_size = 4, 3

    def embed(self, clips, sample_rate=None, timestamps=False):
        if not timestamps:
            return torch.stack([self.scene(clip) for clip in clips])
        embedded = [self.steps(clip) for clip in clips]
        return [steps for steps, _ in embedded], [times for _, times in embedded]

    def scene(self, audio):
        values = [audio[100:900].std(), audio[40], audio[3000], audio.abs().mean() * 1000]
        return torch.stack(values)

    def steps(self, audio):
        pieces = audio[5 * 16 :].unfold(0, 640, 73 * 16)  # 40 ms from 5, 78, 151, ... on
        values = [pieces.std(1), pieces[:, 0], pieces.diff(dim=1).std(1) * 1000]
        return torch.stack(values, dim=1), 25 + 73.0 * torch.arange(len(pieces))


@pytest.fixture(scope="module")
def tasks(task, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    event = make_task(folder / "event", "event", 2.0)
    return {
        "multiclass": task,
        "multilabel": make_task(folder / "multilabel", "multilabel", 0.5),
        "event": event,
    }


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def cells(output: str) -> list[list[str]]:
    """The rows of a Markdown table."""
    lines = [line for line in output.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def rewrite(path: Path, change) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


@pytest.mark.parametrize(("kind", "splits"), [("multiclass", 3), ("multilabel", 1), ("event", 1)])
def test_probe(tasks, small_config, kind, splits):
    task = read_task(tasks[kind])
    for model in (LogMelStatistics(), untrained(small_config)):
        scores = probe(task, model)
        assert len(scores) == splits and np.mean(scores) > (0.9 if kind == "event" else 0.99)


def ridge(x: np.ndarray, y: np.ndarray, tested: np.ndarray, penalty: float) -> np.ndarray:
    """Predictions (rows, labels) of ridge regression on standardised inputs, by its normal
    equations.
    """
    mean, std = x.mean(0, dtype=float), x.std(0, dtype=float)
    z = (x - mean) / std
    weights = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ (y - y.mean(0)))
    return (tested - mean) / std @ weights + y.mean(0)


def mean_average_precision(train: list, test: list) -> float:
    """Of ridge regression.

    Rows are pairs: the embedding, and whether each label holds.
    """
    (x, y), (tested, truth) = (map(np.array, zip(*rows, strict=True)) for rows in (train, test))
    precisions = []
    for ranking, holds in zip(ridge(x, y, tested, 0.3 * len(x)).T, truth.T, strict=True):
        hits = holds[np.argsort(-ranking)]
        if np.ptp(ranking) == 0:  # a label that nothing was learned of
            precisions.append(holds.mean())
        elif hits.any():
            precisions.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
    return np.mean(precisions)


def test_the_ridge_classifier_by_hand(tasks):
    """Its normal equations, with targets of 1 and -1, for each fold trained on the others."""
    task = read_task(tasks["multiclass"])
    x = [
        np.stack([Rough().scene(read_audio(path, 16000)).numpy() for path in split])
        for split in task.splits
    ]
    y = [np.array([label for (label,) in split.values()]) for split in task.splits]
    for held_out, found in zip(task.tested, predict(task, Rough(), "ridge"), strict=True):
        inputs, labels = (np.concatenate(part[:held_out] + part[held_out + 1 :]) for part in (x, y))
        targets = np.where(labels[:, None] == np.unique(labels), 1.0, -1.0)
        scores = ridge(inputs, targets, x[held_out], inputs.shape[1])
        right = found.predicted == found.truth
        assert (found.truth == y[held_out]).all() and 0 < right.mean() < 1
        assert (found.predicted == np.unique(labels)[scores.argmax(1)]).all()


def test_events_by_hand(tasks, tmp_path):
    """Events that overlap, twice the same one, one that only the test split has, one that it has
    not.
    """
    copied, rng = shutil.copytree(tasks["event"], tmp_path / "task"), np.random.default_rng(0)

    def events(alone: str) -> list[dict]:
        found = [
            {"label": rng.choice(["a", "a", "b"]), "start": start, "end": start + 700}
            for start in rng.uniform(0, 1500, 4)
        ]
        return [*found, {"label": alone, "start": 0.0, "end": 420.0}]

    rows: list[list] = []
    for split, alone in (("train", "only"), ("valid", "only"), ("test", "new")):
        labels = {
            clip: events(alone) for clip in json.loads((copied / f"{split}.json").read_text())
        }
        (copied / f"{split}.json").write_text(json.dumps(labels))
        rows.append([])
        for clip, found in labels.items():
            values, times = Rough().steps(read_audio(copied / "16000" / split / clip, 16000))
            for moment in range(50, 2000, 100):
                now = {event["label"] for event in found if event["start"] <= moment < event["end"]}
                held = [name in now for name in ("a", "b", "new", "only")]
                rows[-1].append((values[(times - moment).abs().argmin()].numpy(), held))
    (found,) = probe(read_task(copied), Rough())
    expected = mean_average_precision(rows[0] + rows[1], rows[2])
    assert found == pytest.approx(expected, abs=1e-6) and found < 0.97


def test_the_log_mel_baseline():
    model, audio = LogMelStatistics(), read_audio(AUDIO / "crow.wav", 16000)[None]
    frames = model.frontend(audio)[0].double().numpy()
    whole = [*frames.mean(0), *frames.std(0)]
    assert np.allclose(model.scene_embeddings(audio)[0], whole, atol=1e-5)
    embeddings, times = model.timestamp_embeddings(audio)
    assert times.tolist() == [[50 * number for number in range((len(frames) + 4) // 5)]]
    for number, embedding in enumerate(embeddings[0]):
        around = frames[max(5 * number - 10, 0) : 5 * number + 11]
        assert np.allclose(embedding, [*around.mean(0), *around.std(0)], atol=1e-3)


def test_the_command(tasks, saved_model):
    """Each score with its interval, the means and their differences, and what was compared; a
    folder of tasks is all of them.
    """
    models = ["--model", f"one={saved_model}", "--baselines"]
    result = run("probe", tasks["multiclass"], tasks["event"].parent, *models)
    assert result.exit_code == 0, result.output
    head, _, *rows = cells(result.output)
    assert head == ["task", "metric", "one", "untrained", "log-mel"]
    names = ["tones", "event", "multilabel", "mean", "mean, minus one"]
    assert [row[0] for row in rows] == [*names, "embedding size", "embedding size of events"]
    assert [row[1] for row in rows[:3]] == ["accuracy", "mAP", "mAP"]
    for row in rows[:4]:
        for cell in row[2:]:
            value, low, high = map(float, re.findall(r"[\d.]+", cell))
            assert low <= value <= high and value > 60
    assert [row[2:] for row in rows[5:]] == [["160", "160", "80"], ["160", "160", "160"]]
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
    rows = np.arange(400)
    clips = Predictions(np.full(400, "a"), np.where(rows < 320, "a", "b"), rows, 400)
    one, same = score([clips], 0), score([clips], 0)
    value, low, high = one.estimate
    assert value == 80 and (low, high) == pytest.approx((80 - 3.92, 80 + 3.92), abs=0.4)
    assert (one - same).estimate == (0, 0, 0)
    assert np.abs((one - score([clips], 1)).draws).max() > 2
    # A ranked split whose clips hold several rows is drawn by clips: rows of one clip that agree do
    # not count as many.
    clip_of_row = np.repeat(np.arange(40), 50)
    truth = (clip_of_row % 2 == 0)[:, None]
    ranking = np.random.default_rng(0).normal(size=40)[clip_of_row][:, None]
    by_clip = Predictions(truth, ranking, clip_of_row, 40)
    by_row = Predictions(truth, ranking, np.arange(2000), 2000)
    expected = pytest.approx(100 * average_precision_score(truth, ranking))
    assert score([by_clip], 0).value == score([by_row], 0).value == expected
    assert score([by_clip], 0).draws.std() > 3 * score([by_row], 0).draws.std()


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
    "not event multiclass": lambda t: set_metadata(t, embedding_type="event"),
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
