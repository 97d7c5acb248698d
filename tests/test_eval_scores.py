"""eval/: intervals, s(m), tables, chance, the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from eval import report, scores
from eval.scores import TaskScore, markdown, overall, references, rows, summarize
from eval.tasks import chance, registry
from hear_mwmae.tasks import read_task


def score(*values: float) -> TaskScore:
    """Of the seeds 0, 1, ..."""
    return summarize(dict(enumerate(values)))


def unpadded(table: str) -> list[str]:
    """The lines of a Markdown table without the spaces that align its columns."""
    return [re.sub(" +", " ", line) for line in table.splitlines()]


def test_intervals():
    """Student's: of 90, 92, 94 the deviation is 2, and t of two degrees of freedom 4.303."""
    three = score(90.0, 92.0, 94.0)
    assert (
        three.mean == 92
        and three.half_width == pytest.approx(4.3027 * 2 / np.sqrt(3), rel=1e-4)
        and str(three) == "92.0±5.0"
    )
    assert str(score(90.0)) == "90.0"


def test_overall_score_is_near_the_papers():
    """The reconstructed weights give back the s(m) of the paper's rows that are kept."""
    folders = {task["key"]: name for name, task in registry().items() if task["s_weight"]}
    published = [row for row in references() if row["s"]]
    assert len(published) >= 5 and len(folders) == 10
    for row in published:
        mine = {folder: score(float(row[key].split("±")[0])) for key, folder in folders.items()}
        assert overall(mine) == pytest.approx(float(row["s"]), abs=0.05)
        del mine[folders["VL"]]
        assert overall(mine) is None


def test_table_shows_the_papers_rows_beside_ones_own():
    folders = [name for name, task in registry().items() if task["s_weight"]]
    mine = {"mine": {folder: score(50.0, 52.0) for folder in folders}}
    lines = unpadded(markdown(rows(mine, "paper")))
    assert "s(m)" in lines[0] and "| ≈" in lines[2] and "≈" not in lines[3]
    assert lines[2].startswith("| mine | 2 | 51.0±") and len(lines) == 2 + len(references())
    assert "MW-MAE-B" in lines[3] and "89.2" in lines[3]
    lines = unpadded(markdown(rows({"mine": {folder: score(50.0) for folder in folders}}, "hear")))
    assert len(lines) == 4 and "≈" not in lines[2]  # the paper's scores are of another protocol
    assert lines[3].startswith("| HEAR leaderboard, the best of each task | 1 | 97.5 |")
    # Without published rows and s(m), there are no columns for them.
    (row,) = rows({"mine": {"some-task": score(1.0), "other": score(2.0, 2.0)}}, "paper")
    assert row == {
        "model": "mine",
        "seeds": "2 (some-task 1)",
        "other": "2.0±0.0",
        "some-task": "1.0",
    }


def test_scores_of_folds():
    assert scores.split_scores(
        {"test": {"test_score": 0.5}, "hparams": {}, "score_mode": "max"}
    ) == [50]
    folds = {name: {"test_score": value} for name, value in (("fold00", 0.5), ("fold01", np.nan))}
    aggregated = {"aggregated_scores": {"test_score_mean": 0.5}}
    assert scores.mean_score(folds | aggregated) == 25  # a fold without any event found counts


@pytest.mark.parametrize(
    ("kind", "metric", "expected"),
    [("multiclass", "top1_acc", 60), ("multilabel", "mAP", 50), ("event", "mAP", None)],
)
def test_chance(tmp_path, kind, metric, expected):
    """The most frequent label's share; the mean share of the labels."""
    assert chance(read_task(write_labels(tmp_path, kind, metric), audio=False)) == expected


def write_labels(folder: Path, kind: str, metric: str) -> Path:
    """The labels of a task without audio, five clips in the test split."""
    labels = {"multiclass": ["a", "a", "a", "b", "b"]}.get(kind, ["aa", "b", "ab", "", "b"])
    for split in ("train", "valid", "test"):
        clips = {f"{number}.wav": list(label) for number, label in enumerate(labels)}
        if kind == "event":
            clips = {"0.wav": [{"label": name, "start": 0, "end": 9} for name in "ab"]}
        (folder / f"{split}.json").write_text(json.dumps(clips))
    metadata = {
        "embedding_type": "event" if kind == "event" else "scene",
        "prediction_type": "multiclass" if kind == "multiclass" else "multilabel",
        "split_mode": "trainvaltest",
        "splits": ["train", "valid", "test"],
        "evaluation": [metric],
    }
    (folder / "task_metadata.json").write_text(json.dumps(metadata))
    return folder


def write_results(folder: Path, weights: str, values: list[float], torch: str) -> Path:
    """Results on the task "own", and on ESC-50 whose embeddings were removed."""
    for task in ("own", "esc50-v2.0.0-full"):
        (folder / task / "paper").mkdir(parents=True)
        made = {"made": "2026-05-01T10:00:00", "machine": "two cores", "versions": {"torch": torch}}
        for seed, value in enumerate(values):
            folds = {f"fold0{number}": {"test_score": value + number / 10} for number in (0, 1)}
            content = {"scores": folds, "embeddings": "2026-05-01T10:00:00", "seconds": 60, **made}
            (folder / task / "paper" / f"seed-{seed}.json").write_text(json.dumps(content))
    (folder / "own" / "embeddings").mkdir()
    about = {"module": "m", "model": None, "options": {}, "weights": weights, "pooling": "mean"}
    about |= {"embedding_size": 960, "audio_seconds": 1800, "seconds": 6, **made}
    embeddings = write_labels(folder / "own" / "embeddings", "multiclass", "top1_acc")
    (embeddings / "about.json").write_text(json.dumps(about))
    return folder


def test_report(tmp_path):
    """What was measured, of what, by what and when; nothing twice, and nothing empty."""
    folders = {
        "<mine>": write_results(tmp_path / "one", "01" * 32, [0.5, 0.52], "2.13"),
        "yours": write_results(tmp_path / "two", "ff" * 32, [0.6, 0.63], "2.14"),
    }
    models = {name: scores.read_scores(folder, "paper") for name, folder in folders.items()}
    assert models["yours"]["own"].spread == pytest.approx(100 * 0.1 / np.sqrt(2))
    page = report.page(models, "paper", folders)
    assert (
        "&lt;mine&gt;" in page
        and "<mine>" not in page
        and "http" not in page
        and "src=" not in page
    )
    for row in (
        "<td>own</td><td>top1_acc</td><td>5</td><td>2</td><td>the test split</td><td>60.0</td>",
        f"<td>yours</td><td>m</td><td>its default</td><td>mean</td><td>960</td><td>{8 * 'ff'}</td>",
        "<tr><td>yours</td><td>7.1</td><td>7.1</td></tr>",  # over the folds
        "81.2±0.4",  # the paper's, beside
    ):
        assert row in page
    assert "<dd>torch 2.13 and 2.14</dd>" in page and "<dd>2026-05-01</dd>" in page
    assert "<dd>two cores</dd>" in page and "8 predictions" in page
    assert "options" not in page and "s(m)</th>" in page  # published rows have it
    assert (
        len(re.findall('class="bar"', page)) == 4 and len(re.findall('class="chance"', page)) == 2
    )
