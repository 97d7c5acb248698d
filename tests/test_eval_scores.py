"""eval/: intervals, s(m), tables, the report."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from eval import report, scores, tasks
from eval.scores import TaskScore, overall, references, summarize, table
from eval.tasks import TASKS_CSV, registry


def score(*values: float) -> TaskScore:
    """Of one seed each."""
    return summarize(list(values))


def test_intervals():
    """Student's: of 90, 92, 94 the deviation is 2, and t of two degrees of freedom 4.303."""
    three = score(90.0, 92.0, 94.0)
    assert three.half_width == pytest.approx(4.3027 * 2 / np.sqrt(3), rel=1e-4)
    assert three.mean == 92 and str(three) == "92.0±5.0"
    assert str(score(90.0)) == "90.0"


def test_overall_score_is_near_the_papers():
    """The reconstructed weights give back the s(m) of the paper's rows that are kept."""
    folders = {task["key"]: name for name, task in registry().items() if task["s_weight"]}
    published = [row for row in references().to_dict("records") if row["s"]]
    assert len(published) >= 5 and len(folders) == 10
    for row in published:
        mine = {folder: score(float(row[key].split("±")[0])) for key, folder in folders.items()}
        assert overall(mine) == pytest.approx(float(row["s"]), abs=0.05)
        del mine[folders["VL"]]
        assert overall(mine) is None


def test_table_shows_the_papers_rows_beside_ones_own():
    folders = list(registry())
    paper = table({"mine": {folder: score(50.0, 52.0) for folder in folders}}, "paper")
    mine, base, *_ = paper.to_dict("records")
    assert mine["model"] == "mine" and mine["seeds"] == "2" and mine["ESC"].startswith("51.0±")
    assert mine["s(m)"].startswith("≈") and mine["source"] == ""
    assert base["model"] == "MW-MAE-B" and base["s(m)"] == "89.2" and base["ESC"] == "81.2±0.4"
    assert len(paper) == len(references())
    hear = table({"mine": {folder: score(50.0) for folder in folders}}, "hear")
    assert list(hear["model"]) == ["mine", "HEAR leaderboard, the best of each task"]
    assert "s(m)" not in hear  # the paper's scores are of another protocol
    # Without published rows and s(m), there are no columns for them.
    (other,) = table({"mine": {"some-task": score(1.0)}}, "paper").to_dict("records")
    assert other == {"model": "mine", "seeds": "1", "some-task": "1.0"}


def test_a_further_task_of_hear(tmp_path, monkeypatch):
    """It is in the tables, and not in the paper's s(m)."""
    rows = (
        TASKS_CSV.read_text() + "GZ,gunshot_triangulation-v1.0-full,Gunshots,top1_acc" + ",,,,,,,\n"
    )
    (tmp_path / "tasks.csv").write_text(rows)
    paper = {folder: score(50.0) for folder in registry()}
    expected = overall(paper)
    monkeypatch.setattr(tasks, "TASKS_CSV", tmp_path / "tasks.csv")
    (further,) = registry().keys() - paper.keys()
    assert overall(paper | {further: score(90.0)}) == expected
    mine = table({"mine": {further: score(90.0)}}, "paper").to_dict("records")
    assert mine == [{"model": "mine", "seeds": "1", "GZ": "90.0"}]


def test_scores_of_folds():
    one = {"test": {"test_score": 0.5}, "hparams": {}, "score_mode": "max"}
    assert scores.task_score(one) == 50
    folds = {"fold00": {"test_score": 0.5}, "fold01": {"test_score": 0.2}}
    assert scores.task_score(folds | {"aggregated_scores": {"test_score_mean": 0.35}}) == 35


def write_results(folder: Path, values: list[float], torch: str) -> Path:
    """Results on the task "own"."""
    made = {"made": "2026-05-01T10:00:00", "versions": {"torch": torch}}
    about = {"module": "m", "model": None, "options": {}, "weights": "01" * 32, "pooling": "mean"}
    about |= {"embedding_size": 960, **made}
    (folder / "own" / "embeddings").mkdir(parents=True)
    (folder / "own" / "embeddings" / "about.json").write_text(json.dumps(about))
    (folder / "own" / "paper").mkdir()
    for seed, value in enumerate(values):
        folds = {f"fold0{number}": {"test_score": value + number / 10} for number in (0, 1)}
        content = {"scores": folds, "embeddings": made["made"], **made}
        (folder / "own" / "paper" / f"seed-{seed}.json").write_text(json.dumps(content))
    return folder


def test_report(tmp_path):
    """What was measured, of what, by what and when; nothing empty, and nothing from elsewhere."""
    folders = {
        "<mine>": write_results(tmp_path / "one", [0.5, 0.52], "2.13"),
        "yours": write_results(tmp_path / "two", [0.6, 0.63], "2.14"),
    }
    models = {name: scores.read_scores(folder, "paper") for name, folder in folders.items()}
    page = re.sub(r"\s+<td>", "<td>", report.page(models, "paper", folders))
    assert "&lt;mine&gt;" in page and "<mine>" not in page
    assert "http" not in page and "src=" not in page
    assert "<td>yours</td><td>2</td><td>66.5±19.1</td>" in page
    assert f"<td>m</td><td>its default</td><td>mean</td><td>960</td><td>{8 * '01'}</td>" in page
    assert "torch 2.13, 2.14; predicted on 2026-05-01" in page and "options" not in page
