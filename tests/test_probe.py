"""Linear probes on the three kinds of tasks that HEAR has."""

from __future__ import annotations

import json
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

from hear_mwmae.audio import read_audio
from hear_mwmae.cli import main
from hear_mwmae.config import preset
from hear_mwmae.probing import linear_probe
from hear_mwmae.probing.baselines import LogMel, untrained
from hear_mwmae.probing.blocks import end_at_block
from hear_mwmae.probing.comparison import score
from hear_mwmae.probing.linear_probe import Classified, Ranked, average_precision, predict, probe
from hear_mwmae.probing.tasks import read_task
from hear_mwmae.training.loop import pretrain


class Rough:
    """Embeddings that know little of the audio, at timestamps of its own."""

    sample_rate = 16000

    def scene_embeddings(self, audio):
        return torch.stack([audio[:, 100:900].std(1), audio[:, 40], audio[:, 3000], audio.abs().mean(1) * 1000], dim=1)

    def timestamp_embeddings(self, audio):
        pieces = audio[:, 5 * 16 :].unfold(1, 640, 73 * 16)  # 40 ms from 5, 78, 151, ... on
        values = torch.stack([pieces.std(2), pieces[..., 0], pieces.diff(dim=2).std(2) * 1000], dim=2)
        return values, (25 + 73.0 * torch.arange(values.shape[1])).repeat(len(audio), 1)


@pytest.fixture(scope="module")
def tasks(task, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    others = {kind: make_task(folder / kind, kind, seconds) for kind, seconds in (("multilabel", 0.5), ("event", 2.0))}
    return {"multiclass": task, **others}


@pytest.mark.parametrize(("kind", "splits"), [("multiclass", 3), ("multilabel", 1), ("event", 1)])
def test_probe(tasks, embedded_model, kind, splits):
    task = read_task(tasks[kind])
    for model in (LogMel(), untrained(preset("mwmae-tiny")), embedded_model):
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
        embeddings = [Rough().scene_embeddings(read_audio(path, 16000)[None])[0].numpy() for path in split]
        held = [["high" in labels, "low" in labels] for labels in split.values()]
        rows.append(list(zip(embeddings, held, strict=True)))
    (score,) = probe(task, Rough())
    assert score == pytest.approx(mean_average_precision(rows[0] + rows[1], rows[2]), abs=1e-6) and score < 0.97


def test_the_ridge_classifier_by_hand(tasks):
    """Its normal equations, with targets of 1 and -1."""
    task = read_task(tasks["multiclass"])
    x = [
        np.stack([Rough().scene_embeddings(read_audio(path, 16000)[None])[0].numpy() for path in split]) for split in task.splits
    ]
    y = [np.array([label for (label,) in split.values()]) for split in task.splits]
    for held_out, outcome in zip(task.tested, predict(task, Rough(), "ridge"), strict=True):
        inputs, labels = (np.concatenate(part[:held_out] + part[held_out + 1 :]) for part in (x, y))
        targets = np.where(labels[:, None] == np.unique(labels), 1.0, -1.0)
        scores = ridge(inputs, targets, x[held_out], inputs.shape[1])
        assert 0 < outcome.right.mean() < 1
        assert (outcome.right == (np.unique(labels)[scores.argmax(1)] == y[held_out])).all()


def test_events_by_hand(tasks, tmp_path):
    """Events that overlap, twice the same one, one that only the test split has, one that it has
    not.
    """
    copied, rng = shutil.copytree(tasks["event"], tmp_path / "task"), np.random.default_rng(0)
    for split in ("train", "valid", "test"):

        def events(split=split):
            found = [{"label": rng.choice(["a", "a", "b"]), "start": s, "end": s + 700} for s in rng.uniform(0, 1500, 4)]
            return [*found, {"label": {"test": "new"}.get(split, "only"), "start": 0.0, "end": 420.0}]

        rewrite(copied / f"{split}.json", lambda clips: {clip: events() for clip in clips})
    names = ["a", "b", "new", "only"]
    rows = []
    for split in ("train", "valid", "test"):
        rows.append([])
        for clip, found in json.loads((copied / f"{split}.json").read_text()).items():
            values, times = Rough().timestamp_embeddings(read_audio(copied / "16000" / split / clip, 16000)[None])
            for moment in range(50, 2000, 100):
                nearest = (times[0] - moment).abs().argmin()
                held = [any(e["label"] == n and e["start"] <= moment < e["end"] for e in found) for n in names]
                rows[-1].append((values[0, nearest].numpy(), held))
    (score,) = probe(read_task(copied), Rough())
    assert score == pytest.approx(mean_average_precision(rows[0] + rows[1], rows[2]), abs=1e-6) and score < 0.97


def test_the_log_mel_baseline():
    model, audio = LogMel(), read_audio(AUDIO / "crow.wav", 16000)[None]
    frames = model.frontend(audio)[0].double().numpy()
    assert np.allclose(model.scene_embeddings(audio)[0], [*frames.mean(0), *frames.std(0)], atol=1e-5)
    embeddings, times = model.timestamp_embeddings(audio)
    for number, (embedding, time) in enumerate(zip(embeddings[0], times[0], strict=True)):
        around = frames[max(5 * number - 10, 0) : 5 * number + 11]
        assert time == 50 * number and np.allclose(embedding, [*around.mean(0), *around.std(0)], atol=1e-3)
    assert number == (len(frames) - 1) // 5


def test_the_command(tasks):
    result = run("probe", *tasks.values(), "--model", "log-mel")
    assert result.exit_code == 0, result.output
    head, *lines, mean = [line.split() for line in result.output.splitlines()]
    assert head == ["task", "metric", "log-mel", "splits"]
    assert [line[:2] for line in lines] == [["tones", "accuracy"], ["multilabel", "mAP"], ["event", "mAP"]]
    assert all(float(line[2]) > 90 for line in lines) and len(lines[0]) == 2 + 3 + 3
    assert float(mean[1]) == pytest.approx(np.mean([float(line[2]) for line in lines]), abs=0.1)


def test_the_command_with_another_classifier(tasks, monkeypatch):
    made: list[float] = []
    monkeypatch.setattr(linear_probe, "RidgeClassifier", lambda alpha: made.append(alpha) or RidgeClassifier(alpha))
    results = [run("probe", tasks["multiclass"], "--model", "log-mel", *more) for more in ([], ["--classifier", "ridge"])]
    assert made == 3 * [3 * 80]  # one for each split, of mean, std and max of the bands; none for the default
    compared = run("compare", tasks["multiclass"], "-a", "log-mel", "-b", "log-mel", "--classifier", "ridge")
    assert len(made) == 3 + 2 * 3
    assert [result.exit_code for result in [*results, compared]] == [0, 0, 0]
    assert all(float(result.output.splitlines()[1].split()[2]) > 90 for result in results)
    wrong = run("probe", tasks["multiclass"], "--classifier", "svm")
    assert wrong.exit_code == 2 and "'svm' is not one of 'logistic', 'ridge'" in wrong.output


def test_a_table_of_several_models(tasks):
    """Each with its interval, and the means and their differences."""
    arguments = ["--model", "", "--model", "untrained", "--model", "noise=untrained:mae-tiny", "--model", "log-mel", "--markdown"]
    result = run("probe", *tasks.values(), *arguments, "--pooling", "mean")
    assert result.exit_code == 0, result.output
    head, rule, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in result.output.splitlines()]
    assert head == ["task", "metric", "embedded", "untrained", "noise", "log-mel"] and set("".join(rule)) == {"-"}
    assert [row[0] for row in rows] == ["tones", "multilabel", "event", "mean", "mean, minus embedded"]
    for row in rows[:-1]:
        for cell in row[2:]:
            value, low, high = map(float, cell.replace("[", "").replace("]", "").replace(",", "").split())
            assert low <= value <= high
    result = run("probe", *tasks.values(), "--model", "untrained", "--model", "untrained")
    assert result.exit_code == 1 and "two models have the same name" in result.output
    result = run("probe", tasks["event"], "--model", "untrained:mae-big")
    assert result.exit_code == 1 and "mae-big" in result.output


def test_blocks(tasks, embedded_model):
    """The layer norm makes the embedding of the last block's output, and not of the first's."""
    audio = read_audio(AUDIO / "crow.wav", 16000)[None, :7480]  # the last time step's centre is in it
    last, first = end_at_block(embedded_model, -1), end_at_block(embedded_model, 0)
    assert first.encoder.pos_embed is embedded_model.encoder.pos_embed  # the weights are shared
    expected, times = embedded_model.timestamp_embeddings(audio)
    width = embedded_model.config.encoder.width
    for block, same in ((last, True), (first, False)):
        steps, at = block.timestamp_embeddings(audio)
        assert steps.shape == expected.shape and torch.equal(at, times)
        normed = embedded_model.encoder.norm(steps.unflatten(2, (-1, width))).flatten(2)
        assert torch.allclose(normed, expected, atol=1e-4) is same
    assert len(times[0]) == embedded_model.layers(audio, [0])[0].shape[1]
    steps, scenes = first.timestamp_embeddings(audio)[0], first.scene_embeddings(audio)
    pooled = torch.cat([steps.mean(1), steps.std(1, correction=0), steps.amax(1)], dim=1)
    assert torch.allclose(scenes, pooled, atol=1e-4)


def test_the_command_on_blocks(tasks):
    result = run("probe", *tasks.values(), "--model", "", "--block", 0, "--block", "-1", "--markdown")
    assert result.exit_code == 0, result.output
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in result.output.splitlines()]
    assert head[2:] == ["embedded block 0", "embedded block -1"]
    assert all(float(cell.split()[0]) > 60 for row in rows[:-1] for cell in row[2:])
    for model, depth in (("", 12), ("log-mel", 0)):
        wrong = run("probe", tasks["multiclass"], "--model", model, "--block", 12)
        assert wrong.exit_code == 1 and f"the model has {depth} encoder blocks and no block 12" in wrong.output


def test_average_precision_is_scikit_learns():
    """With weights, ties, and a draw that holds no positive row."""
    rng = np.random.default_rng(0)
    truth, ranking, weights = rng.random(50) < 0.3, rng.integers(0, 12, 50).astype(float), rng.integers(0, 3, (20, 50))
    expected = [average_precision_score(truth, ranking, sample_weight=draw) for draw in weights]
    assert average_precision(truth, ranking, weights) == pytest.approx(expected)
    assert np.isnan(average_precision(truth, ranking, ~truth[None] * 1)).all()


def test_intervals_are_those_of_the_clips():
    """Of 320 right clips in 400, the standard error is 2 points; equal seeds draw the same clips
    for all models.
    """
    right = np.arange(400) < 320
    one, same = score([Classified(right)], 0), score([Classified(right)], 0)
    value, low, high = one.estimate
    assert value == 80 and (low, high) == pytest.approx((80 - 3.92, 80 + 3.92), abs=0.4)
    assert (one - same).estimate == (0, 0, 0) and np.abs((one - score([Classified(right)], 1)).draws).max() > 2
    # A ranked split whose clips hold several rows is drawn by clips: rows of one clip that agree do
    # not count as many.
    clips, truth = np.repeat(np.arange(40), 50), np.repeat(np.arange(40) % 2 == 0, 50)[:, None]
    ranking = np.random.default_rng(0).normal(size=40)[clips][:, None]
    by_clip, by_row = Ranked(truth, ranking, clips, 40), Ranked(truth, ranking, np.arange(2000), 2000)
    assert score([by_clip], 0).score == score([by_row], 0).score == pytest.approx(100 * average_precision_score(truth, ranking))
    assert score([by_clip], 0).draws.std() > 3 * score([by_row], 0).draws.std()


def test_a_model_of_another_rate_hears_audio_of_its_rate(task):
    model = LogMel()
    model.sample_rate, heard = 8000, []
    model.scene_embeddings = lambda audio: heard.append(audio.shape[1]) or torch.rand(1, 2)
    probe(read_task(task), model)
    assert set(heard) == {4000}


def test_labels_that_are_numbers(task, tmp_path):
    """As HEAR writes pitches."""
    copied = shutil.copytree(task, tmp_path / "task")
    for fold in copied.glob("fold0?.json"):
        rewrite(fold, lambda clips: {clip: [60 if found == ["low"] else 72] for clip, found in clips.items()})
    assert read_task(copied).labels == ["60", "72"] and probe(read_task(copied), LogMel()) == [1, 1, 1]


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
    (right,) = probe(read_task(copied), LogMel())
    swapped = (copied / "test.json").read_text().replace("high", "other").replace("low", "high").replace("other", "low")
    (copied / "test.json").write_text(swapped)
    (wrong,) = probe(read_task(copied), LogMel())
    assert right > 0.9 and wrong < 0.6


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def rewrite(path: Path, change) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def label(path: Path, labels: list) -> None:
    """Every clip of the split like that."""
    rewrite(path, lambda clips: dict.fromkeys(clips, labels))


def as_events(task: Path) -> None:
    rewrite(task / "task_metadata.json", lambda m: {**m, "embedding_type": "event", "prediction_type": "multilabel"})
    for fold in task.glob("fold0?.json"):
        label(fold, [{"label": "low", "start": 0.0, "end": 300.0}])


DAMAGES = {
    "metadata": (
        lambda t: (t / "task_metadata.json").write_text("{}"),
        "must be an object with a list of splits",
    ),
    "split": (lambda t: (t / "fold01.json").unlink(), "fold01.json"),
    "kind": (lambda t: rewrite(t / "task_metadata.json", lambda m: {**m, "embedding_type": "event"}), "not event multiclass"),
    "audio": (lambda t: next((t / "16000" / "fold02").iterdir()).unlink(), "16000/fold02/.* is missing"),
    "label": (
        lambda t: [label(fold, ["low"]) for fold in t.glob("fold0?.json")],
        "all clips have the label 'low'",
    ),
    "labels": (lambda t: label(t / "fold01.json", ["low", "high"]), "one name"),
    "no name": (lambda t: label(t / "fold01.json", [{"label": "low"}]), "one name"),
    "times": (lambda t: (as_events(t), label(t / "fold01.json", [{"label": "low", "start": 0.0}])), "KeyError: 'end'"),
    "one split": (lambda t: rewrite(t / "task_metadata.json", lambda m: {**m, "splits": ["fold01"]}), "two splits"),
    "split mode": (
        lambda t: rewrite(t / "task_metadata.json", lambda m: {k: v for k, v in m.items() if k != "split_mode"}),
        "has no split_mode",
    ),
    "garbage": (lambda t: next((t / "16000" / "fold02").iterdir()).write_bytes(b"no audio"), "fold02/"),
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
    with pytest.raises(ValueError, match=rf"task is not a HEAR task that can be probed: .*{message}"):
        pretrain(tiny_recipe(tmp_path), data, tmp_path / "run", look_every=4, tasks=(copied,))
    assert not (tmp_path / "run").exists()
    result = run("probe", copied)
    assert result.exit_code == 1 and "not a HEAR task that can be probed" in result.output


def test_events_too_short_for_the_probe(tasks, tmp_path):
    copied = shutil.copytree(tasks["event"], tmp_path / "task")
    label(copied / "test.json", [{"label": "low", "start": 101.0, "end": 119.0}])
    result = run("probe", copied, "--model", "log-mel")
    assert result.exit_code == 1 and "no event of a tested split covers any" in result.output


def test_comparing_needs_clips_that_are_right_or_wrong(tasks):
    result = run("compare", tasks["multilabel"], "-a", "", "-b", "")
    assert result.exit_code == 1 and "a comparison needs one label per clip" in result.output
