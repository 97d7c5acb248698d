"""Linear probes on the three kinds of tasks that HEAR has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hear_tasks import make_task
from tiny_run import tiny_recipe

from hear_mwmae.config import preset
from hear_mwmae.training.baselines import LogMel, untrained
from hear_mwmae.training.compare import main as compare_command
from hear_mwmae.training.hear_task import read_task
from hear_mwmae.training.loop import pretrain
from hear_mwmae.training.probe import main as probe_command
from hear_mwmae.training.probe import probe


class Deaf:
    """Embeddings that know nothing of the audio."""

    def scene_embeddings(self, audio):
        return torch.rand(len(audio), 4)

    def timestamp_embeddings(self, audio):
        times = torch.arange(0, audio.shape[1] / 16, 70)
        return torch.rand(len(audio), len(times), 4), times.repeat(len(audio), 1)


class WhatIsHeard:
    """The loudness of low and high tones in the 40 ms from ``late`` ms after each timestamp on."""

    def __init__(self, late: int) -> None:
        self.late = late

    def timestamp_embeddings(self, audio):
        frames = torch.nn.functional.pad(audio, (0, 1600 * 16))[:, self.late * 16 :].unfold(1, 640, 480)
        spectrum = torch.fft.rfft(frames).abs()  # 25 Hz a bin
        loudness = torch.stack([spectrum[..., 8:17].amax(2), spectrum[..., 64:129].amax(2)], dim=2)
        return loudness, (torch.arange(loudness.shape[1]) * 30.0).repeat(len(audio), 1)


@pytest.fixture(scope="module")
def tasks(task, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    others = {kind: make_task(folder / kind, kind, seconds) for kind, seconds in (("multilabel", 0.5), ("event", 2.0))}
    return {"multiclass": task, **others}


@pytest.mark.parametrize(("kind", "splits", "chance"), [("multiclass", 3, 0.5), ("multilabel", 1, 0.58), ("event", 1, 0.5)])
def test_probe(tasks, embedded_model, kind, splits, chance):
    task = read_task(tasks[kind])
    for model in (LogMel(), untrained(preset("mwmae-tiny")), embedded_model):
        scores = probe(task, model)
        assert len(scores) == splits and np.mean(scores) > (0.9 if kind == "event" else 0.99)
    torch.manual_seed(0)
    assert np.mean([probe(task, Deaf()) for _ in range(5)]) == pytest.approx(chance, abs=0.15)


def test_the_command(tasks):
    result = CliRunner().invoke(probe_command, [*map(str, tasks.values()), "--log-mel"])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert [line[::2][:2] for line in lines] == [["tones", "accuracy"], ["multilabel", "mAP"], ["event", "mAP"]]
    assert all(float(line[1]) > 90 for line in lines)


def test_events_are_compared_at_their_time(tasks):
    """Also where the timestamps of the model are not the moments of the probe."""
    task = read_task(tasks["event"])
    assert probe(task, WhatIsHeard(0))[0] > 0.97
    assert probe(task, WhatIsHeard(500))[0] < 0.9  # half a second too late


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


def rewrite(path: Path, change) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def label(path: Path, labels: list) -> None:
    """Every clip of the split like that."""
    rewrite(path, lambda clips: dict.fromkeys(clips, labels))


DAMAGES = {
    "metadata": (lambda t: (t / "task_metadata.json").write_text("{}"), "KeyError"),
    "split": (lambda t: (t / "fold01.json").unlink(), "fold01.json"),
    "kind": (lambda t: rewrite(t / "task_metadata.json", lambda m: {**m, "embedding_type": "event"}), "not event multiclass"),
    "audio": (lambda t: next((t / "16000" / "fold02").iterdir()).unlink(), "no 16000/fold02"),
    "label": (
        lambda t: [label(fold, ["low"]) for fold in t.glob("fold0?.json")],
        "all clips have the label 'low'",
    ),
    "labels": (lambda t: label(t / "fold01.json", ["low", "high"]), "one name"),
    "times": (lambda t: label(t / "fold01.json", [{"label": "low"}]), "one name"),
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
    result = CliRunner().invoke(probe_command, [str(copied)])
    assert result.exit_code == 1 and "not a HEAR task that can be probed" in result.output


def test_events_too_short_for_the_probe(tasks, tmp_path):
    copied = shutil.copytree(tasks["event"], tmp_path / "task")
    label(copied / "test.json", [{"label": "low", "start": 101.0, "end": 119.0}])
    result = CliRunner().invoke(probe_command, [str(copied), "--log-mel"])
    assert result.exit_code == 1 and "no event of a tested split holds at any" in result.output


def test_comparing_needs_clips_that_are_right_or_wrong(tasks):
    result = CliRunner().invoke(compare_command, [str(tasks["multilabel"]), "-a", "", "-b", ""])
    assert result.exit_code == 1 and "only where it has one label" in result.output
