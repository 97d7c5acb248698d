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
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import average_precision_score
from tiny_run import tiny_recipe
from tqdm import tqdm

from hear_mwmae import probe as probe_module
from hear_mwmae.audio import read_audio
from hear_mwmae.baselines import LogMelStatistics, untrained
from hear_mwmae.cli import main
from hear_mwmae.probe import Predictions, average_precision, predict, probe, score
from hear_mwmae.tasks import find_tasks, read_task
from hear_mwmae.training.loop import pretrain
from hear_mwmae.weights import read_config


class Rough:
    """Embeddings that know little of the audio, at timestamps of its own."""

    sample_rate = 16000
    scene_embedding_size, timestamp_embedding_size = 4, 3

    def embed(self, clips, sample_rate=None, timestamps=False):
        if not timestamps:
            return torch.cat([self.scene_embeddings(clip[None]) for clip in clips])
        embedded = [self.timestamp_embeddings(clip[None]) for clip in clips]
        return [steps[0] for steps, _ in embedded], [times[0] for _, times in embedded]

    def scene_embeddings(self, audio):
        return torch.stack(
            [audio[:, 100:900].std(1), audio[:, 40], audio[:, 3000], audio.abs().mean(1) * 1000],
            dim=1,
        )

    def timestamp_embeddings(self, audio):
        pieces = audio[:, 5 * 16 :].unfold(1, 640, 73 * 16)  # 40 ms from 5, 78, 151, ... on
        values = torch.stack(
            [pieces.std(2), pieces[..., 0], pieces.diff(dim=2).std(2) * 1000], dim=2
        )
        return values, (25 + 73.0 * torch.arange(values.shape[1])).repeat(len(audio), 1)


@pytest.fixture(scope="module")
def tasks(task, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    others = {
        kind: make_task(folder / kind, kind, seconds)
        for kind, seconds in (("multilabel", 0.5), ("event", 2.0))
    }
    return {"multiclass": task, **others}


@pytest.mark.parametrize(("kind", "splits"), [("multiclass", 3), ("multilabel", 1), ("event", 1)])
def test_probe(tasks, small_config, embedded_model, kind, splits):
    task = read_task(tasks[kind])
    for model in (LogMelStatistics(), untrained(small_config), embedded_model):
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


def test_several_labels_by_hand(tasks):
    task, rows = read_task(tasks["multilabel"]), []
    for split in task.splits:
        embeddings = [
            Rough().scene_embeddings(read_audio(path, 16000)[None])[0].numpy() for path in split
        ]
        held = [["high" in labels, "low" in labels] for labels in split.values()]
        rows.append(list(zip(embeddings, held, strict=True)))
    (score,) = probe(task, Rough())
    assert (
        score == pytest.approx(mean_average_precision(rows[0] + rows[1], rows[2]), abs=1e-6)
        and score < 0.97
    )


def test_the_ridge_classifier_by_hand(tasks):
    """Its normal equations, with targets of 1 and -1."""
    task = read_task(tasks["multiclass"])
    x = [
        np.stack(
            [Rough().scene_embeddings(read_audio(path, 16000)[None])[0].numpy() for path in split]
        )
        for split in task.splits
    ]
    y = [np.array([label for (label,) in split.values()]) for split in task.splits]
    for held_out, found in zip(task.tested, predict(task, Rough(), "ridge"), strict=True):
        inputs, labels = (np.concatenate(part[:held_out] + part[held_out + 1 :]) for part in (x, y))
        targets = np.where(labels[:, None] == np.unique(labels), 1.0, -1.0)
        scores = ridge(inputs, targets, x[held_out], inputs.shape[1])
        assert (found.truth == y[held_out]).all() and 0 < (
            found.predicted == found.truth
        ).mean() < 1
        assert (found.predicted == np.unique(labels)[scores.argmax(1)]).all()


def test_events_by_hand(tasks, tmp_path):
    """Events that overlap, twice the same one, one that only the test split has, one that it has
    not.
    """
    copied, rng = shutil.copytree(tasks["event"], tmp_path / "task"), np.random.default_rng(0)
    for split in ("train", "valid", "test"):

        def events(split=split):
            found = [
                {"label": rng.choice(["a", "a", "b"]), "start": s, "end": s + 700}
                for s in rng.uniform(0, 1500, 4)
            ]
            return [
                *found,
                {"label": {"test": "new"}.get(split, "only"), "start": 0.0, "end": 420.0},
            ]

        rewrite(copied / f"{split}.json", lambda clips: {clip: events() for clip in clips})
    names = ["a", "b", "new", "only"]
    rows = []
    for split in ("train", "valid", "test"):
        rows.append([])
        for clip, found in json.loads((copied / f"{split}.json").read_text()).items():
            values, times = Rough().timestamp_embeddings(
                read_audio(copied / "16000" / split / clip, 16000)[None]
            )
            for moment in range(50, 2000, 100):
                nearest = (times[0] - moment).abs().argmin()
                held = [
                    any(e["label"] == n and e["start"] <= moment < e["end"] for e in found)
                    for n in names
                ]
                rows[-1].append((values[0, nearest].numpy(), held))
    (score,) = probe(read_task(copied), Rough())
    assert (
        score == pytest.approx(mean_average_precision(rows[0] + rows[1], rows[2]), abs=1e-6)
        and score < 0.97
    )


def test_the_log_mel_baseline():
    model, audio = LogMelStatistics(), read_audio(AUDIO / "crow.wav", 16000)[None]
    frames = model.frontend(audio)[0].double().numpy()
    assert np.allclose(
        model.scene_embeddings(audio)[0], [*frames.mean(0), *frames.std(0)], atol=1e-5
    )
    embeddings, times = model.timestamp_embeddings(audio)
    for number, (embedding, time) in enumerate(zip(embeddings[0], times[0], strict=True)):
        around = frames[max(5 * number - 10, 0) : 5 * number + 11]
        assert time == 50 * number and np.allclose(
            embedding, [*around.mean(0), *around.std(0)], atol=1e-3
        )
    assert number == (len(frames) - 1) // 5


def cells(output: str) -> list[list[str]]:
    """The rows of a Markdown table."""
    lines = [line for line in output.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_command(tasks, saved_model):
    """Each score with its interval, the means and their differences, and what was compared."""
    result = run("probe", *tasks.values(), "--model", f"one={saved_model}", "--baselines")
    assert result.exit_code == 0, result.output
    head, rule, *rows = cells(result.output)
    assert head == ["task", "metric", "one", "untrained", "log-mel"]
    assert set("".join(rule)) == {"-"}
    names = ["tones", "multilabel", "event", "mean", "mean, minus one"]
    assert [row[0] for row in rows] == [*names, "embedding size", "embedding size of events"]
    assert [row[1] for row in rows[:3]] == ["accuracy", "mAP", "mAP"]
    for row in rows[:4]:
        for cell in row[2:]:
            value, low, high = map(float, re.findall(r"[\d.]+", cell))
            assert low <= value <= high and value > 60
    assert [row[2:] for row in rows[5:]] == [["160", "160", "80"], ["160", "160", "160"]]
    assert "Pooling mean, classifier logistic." in result.output


def test_a_folder_of_tasks_is_all_of_them(tasks):
    parent = tasks["event"].parent
    assert find_tasks([tasks["multiclass"], parent, tasks["event"]]) == [
        tasks["multiclass"],
        tasks["event"],
        tasks["multilabel"],
    ]
    _, _, *rows = cells(run("probe", parent, "--model", "log-mel").output)
    assert [row[0] for row in rows[:2]] == ["event", "multilabel"]
    result = run("probe", tasks["event"] / "16000")
    assert result.exit_code == 1 and "is no HEAR task and holds none" in result.output


def test_all_models_have_one_pooling(tasks, model_dir, tmp_path):
    """Models of different poolings are refused, until one is given; baselines follow the models."""
    arguments = ["probe", tasks["multiclass"], "--model", f"one={model_dir}", "--baselines"]
    head, _, _, sizes = cells(run(*arguments).output)
    width = read_config(model_dir / "config.json").embedding_size
    assert head[2:] == ["one", "untrained", "log-mel"]
    assert sizes[2:] == [str(width), str(width), "80"]  # the model's pooling is the mean
    result = run(*arguments, "--model", "")
    assert result.exit_code == 1
    assert "the models' poolings differ (one: mean, embedded: mean+std+max)" in result.output
    *_, sizes = cells(run(*arguments, "--pooling", "mean+max").output)
    assert sizes[2:] == [str(2 * width), str(2 * width), "160"]


def test_the_command_with_another_classifier(tasks, monkeypatch):
    made: list[float] = []
    monkeypatch.setattr(
        probe_module, "RidgeClassifier", lambda alpha: made.append(alpha) or RidgeClassifier(alpha)
    )
    arguments = ["probe", tasks["multiclass"], "--model", "log-mel"]
    results = [run(*arguments, *more) for more in ([], ["--classifier", "ridge"])]
    assert made == 3 * [3 * 80]  # one for each split, of mean, std and max; none for the default
    assert [result.exit_code for result in results] == [0, 0]
    assert all(float(cells(result.output)[2][2].split()[0]) > 90 for result in results)
    wrong = run(*arguments, "--classifier", "svm")
    assert wrong.exit_code == 2 and "'svm' is not one of 'logistic', 'ridge'" in wrong.output


def test_models_that_cannot_be_probed(tasks):
    result = run("probe", tasks["event"], "--model", "untrained", "--model", "untrained")
    assert result.exit_code == 1 and "two models have the same name" in result.output
    result = run("probe", tasks["event"], "--model", "untrained:mae-big")
    assert result.exit_code == 1 and "mae-big" in result.output


def test_progress_is_shown(tasks, monkeypatch):
    """A bar per task and model, a step per clip."""
    bars = []

    class Bar(tqdm):
        def close(self) -> None:
            if not self.disable:
                bars.append((self.desc, self.n, self.total))
            super().close()

    monkeypatch.setattr(probe_module, "tqdm", Bar)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    task = read_task(tasks["multilabel"])
    probe_module.score_models([task], {"log-mel": LogMelStatistics()})
    assert bars[0] == ("multilabel, log-mel", 36, 36)
    probe(task, LogMelStatistics())
    assert len(bars) == 1


def test_average_precision_is_scikit_learns():
    """With weights, ties, and a draw that holds no positive row."""
    rng = np.random.default_rng(0)
    truth, ranking, weights = (
        rng.random(50) < 0.3,
        rng.integers(0, 12, 50).astype(float),
        rng.integers(0, 3, (20, 50)),
    )
    expected = [average_precision_score(truth, ranking, sample_weight=draw) for draw in weights]
    assert average_precision(truth, ranking, weights) == pytest.approx(expected)
    assert np.isnan(average_precision(truth, ranking, ~truth[None] * 1)).all()


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


def test_a_model_of_another_rate_hears_audio_of_its_rate(task):
    model = LogMelStatistics()
    model.sample_rate, heard = 8000, []
    model.embed = lambda clips: heard.extend(map(len, clips)) or torch.rand(len(clips), 2)
    probe(read_task(task), model)
    assert set(heard) == {4000}


def test_labels_that_are_numbers(task, tmp_path):
    """As HEAR writes pitches."""
    copied = shutil.copytree(task, tmp_path / "task")
    for fold in copied.glob("fold0?.json"):
        rewrite(
            fold,
            lambda clips: {clip: [60 if found == ["low"] else 72] for clip, found in clips.items()},
        )
    assert read_task(copied).labels == ["60", "72"] and probe(
        read_task(copied), LogMelStatistics()
    ) == [
        1,
        1,
        1,
    ]


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "event"])
def test_a_test_split_is_never_trained_on(tasks, tmp_path, kind):
    """With the labels of the test split swapped, what was right is wrong."""
    copied = shutil.copytree(tasks[kind], tmp_path / "task")
    metadata = json.loads((copied / "task_metadata.json").read_text())
    for old, new in zip(metadata["splits"], ("train", "valid", "test"), strict=True):
        if old != new:
            (copied / f"{old}.json").rename(copied / f"{new}.json")
            (copied / "16000" / old).rename(copied / "16000" / new)
    metadata |= {"splits": ["train", "valid", "test"], "split_mode": "trainvaltest"}
    (copied / "task_metadata.json").write_text(json.dumps(metadata))
    (right,) = probe(read_task(copied), LogMelStatistics())
    swapped = (
        (copied / "test.json")
        .read_text()
        .replace("high", "other")
        .replace("low", "high")
        .replace("other", "low")
    )
    (copied / "test.json").write_text(swapped)
    (wrong,) = probe(read_task(copied), LogMelStatistics())
    assert right > 0.9 and wrong < 0.6


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def rewrite(path: Path, change) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def label(path: Path, labels: list) -> None:
    """Every clip of the split like that."""
    rewrite(path, lambda clips: dict.fromkeys(clips, labels))


def as_events(task: Path) -> None:
    rewrite(
        task / "task_metadata.json",
        lambda m: {**m, "embedding_type": "event", "prediction_type": "multilabel"},
    )
    for fold in task.glob("fold0?.json"):
        label(fold, [{"label": "low", "start": 0.0, "end": 300.0}])


DAMAGES = {
    "metadata": (
        lambda t: (t / "task_metadata.json").write_text("{}"),
        "must be an object with a list of splits",
    ),
    "split": (lambda t: (t / "fold01.json").unlink(), "fold01.json"),
    "kind": (
        lambda t: rewrite(t / "task_metadata.json", lambda m: {**m, "embedding_type": "event"}),
        "not event multiclass",
    ),
    "audio": (
        lambda t: next((t / "16000" / "fold02").iterdir()).unlink(),
        "16000/fold02: 1 of 12 files missing",
    ),
    "label": (
        lambda t: [label(fold, ["low"]) for fold in t.glob("fold0?.json")],
        "all clips have the label 'low'",
    ),
    "labels": (lambda t: label(t / "fold01.json", ["low", "high"]), "one name"),
    "path": (lambda t: rewrite(t / "fold01.json", lambda m: {"../x.wav": ["low"]}), "not the name"),
    "no name": (lambda t: label(t / "fold01.json", [{"label": "low"}]), "one name"),
    "times": (
        lambda t: (as_events(t), label(t / "fold01.json", [{"label": "low", "start": 0.0}])),
        "an event has label, start and end, not ",
    ),
    "one split": (
        lambda t: rewrite(t / "task_metadata.json", lambda m: {**m, "splits": ["fold01"]}),
        "two splits or more",
    ),
    "split mode": (
        lambda t: rewrite(
            t / "task_metadata.json", lambda m: {k: v for k, v in m.items() if k != "split_mode"}
        ),
        "has no split_mode",
    ),
    "garbage": (
        lambda t: next((t / "16000" / "fold02").iterdir()).write_bytes(b"no audio"),
        "16000/fold02: 1 of 12 files unreadable",
    ),
    "none in common": (
        lambda t: (
            rewrite(t / "task_metadata.json", lambda m: {**m, "prediction_type": "multilabel"}),
            label(t / "fold01.json", ["other"]),
        ),
        "fold01 has no label that the other splits have",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_task_that_cannot_be_probed_is_refused_before_the_run(data, task, tmp_path, damage):
    copied = shutil.copytree(task, tmp_path / "task")
    change, message = DAMAGES[damage]
    change(copied)
    with pytest.raises(
        ValueError, match=rf"task is not a HEAR task that can be learned: .*{message}"
    ):
        pretrain(tiny_recipe(tmp_path), data, tmp_path / "run", eval_every=4, tasks=(copied,))
    assert not (tmp_path / "run").exists()
    result = run("probe", copied)
    assert result.exit_code == 1 and "not a HEAR task that can be learned" in result.output


def test_events_too_short_for_the_probe(tasks, tmp_path):
    copied = shutil.copytree(tasks["event"], tmp_path / "task")
    label(copied / "test.json", [{"label": "low", "start": 101.0, "end": 119.0}])
    result = run("probe", copied, "--model", "log-mel")
    assert result.exit_code == 1 and "no event of a tested split covers any" in result.output
