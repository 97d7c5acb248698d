"""eval/: intervals, s(m), tables, comparisons, the report and the gate."""

from __future__ import annotations

import re
import xml.dom.minidom

import numpy as np
import pytest
import scipy.stats

from eval import gate, report, scores
from eval.scores import Score, markdown, overall, references, summarise
from eval.tasks import registry


def score(*values: float) -> Score:
    """Of the seeds 0, 1, ..."""
    return summarise(dict(enumerate(values)))


def unpadded(table: str) -> list[str]:
    """The lines of a Markdown table without the spaces that align its columns."""
    return [re.sub(" +", " ", line) for line in table.splitlines()]


def test_intervals():
    """Student's: of 90, 92, 94 the deviation is 2, and t of two degrees of freedom 4.303."""
    three = score(90.0, 92.0, 94.0)
    assert three.mean == 92 and three.half_width == pytest.approx(4.3027 * 2 / np.sqrt(3), rel=1e-4) and str(three) == "92.0±5.0"
    assert str(score(90.0)) == "90.0"


def test_overall_score_is_near_the_papers():
    """The reconstructed weights give back the s(m) of the paper's rows that are kept."""
    folders = {task.key: task.folder for task in registry().values() if task.in_paper}
    rows = [row for row in references() if row["s"]]
    assert len(rows) >= 5 and len(folders) == 10
    for row in rows:
        mine = {folder: score(float(row[key].split("±")[0])) for key, folder in folders.items()}
        assert overall(mine) == pytest.approx(float(row["s"]), abs=0.05)
        del mine[folders["VL"]]
        assert overall(mine) is None


def test_table_shows_the_papers_rows_beside_ones_own():
    folders = [task.folder for task in registry().values() if task.in_paper]
    text = markdown({"mine": {folder: score(50.0, 52.0) for folder in folders}}, "paper")
    lines = unpadded(text)
    assert (
        "s(m)" in lines[0]
        and "| ≈" in lines[2]
        and "≈" not in lines[3]
        and lines[2].startswith("| mine | paper | 2 | 51.0±")
        and len(lines) == 2 + len(references())
    )
    assert "MW-MAE-B" in text and "89.2" in text
    mine = {folder: score(50.0) for folder in folders}
    lines = unpadded(markdown({"mine": mine}, "hear"))  # the paper's scores are of another protocol
    assert (
        len(lines) == 4
        and "≈" not in lines[2]
        and lines[3].startswith("| HEAR leaderboard, the best of each task | hear | 1 | 97.5 |")
    )
    assert "MW-MAE-B" not in markdown({"mine": {"some-task": score(1.0)}}, "paper")
    assert scores.primary_score({"test": {"test_score": 0.5}, "hparams": {}, "score_mode": "max"}) == 50
    folds = {"fold00": {"test_score": 0.5}, "fold01": {"test_score": float("nan")}, "aggregated_scores": {"test_score_mean": 0.5}}
    assert scores.primary_score(folds) == 25  # a fold without any event found is not left out


def test_report_and_comparison():
    one = {"esc50-v2.0.0-full": score(50.0, 52.0, 51.0), "other": score(10.0)}
    two = {"esc50-v2.0.0-full": score(60.0, 63.0, 61.0)}
    difference, p = scores.compare(one["esc50-v2.0.0-full"], two["esc50-v2.0.0-full"])
    assert difference == pytest.approx(31 / 3)
    assert p == pytest.approx(scipy.stats.ttest_rel([50, 52, 51], [60, 63, 61]).pvalue) and p < 0.01
    # Seeds are paired by their numbers, and those of one model only are left out, of the difference
    # as well.
    assert scores.compare(summarise({0: 1.0, 1: 2.0, 2: 4.0}), summarise({2: 5.0, 1: 4.0, 7: 9.0}))[0] == 1.5
    assert scores.compare(summarise({0: 1.0, 1: 2.0}), summarise({1: 2.0, 7: 9.0})) == (4.0, None)
    assert scores.compare(score(1.0, 2.0), score(3.0, 4.0)) == (2.0, None)  # no spread, no test
    page = report.page({"<mine>": one, "yours": two}, "paper", {"versions": "heareval 1"})
    assert "&lt;mine&gt;" in page and "<mine>" not in page and "+10.3 (p = " in page and "not computed" in page
    assert "http" not in page and page.count('src="data:image/svg+xml;') == page.count("src=") == 2
    assert "81.2±0.4" in page  # the paper's, beside
    xml.dom.minidom.parseString(report.chart("t", list(one.values())))


def test_gate(tmp_path):
    minimum = tmp_path / "min.csv"
    gate.write_csv({"a": Score(80.0, 1.0, {}), "b": score(50.0)}, "paper", minimum)
    good, bad = score(79.5), score(78.9)
    assert gate.below({"a": good, "b": score(50.0)}, "paper", minimum) == []
    assert gate.below({"a": bad, "b": score(float("nan"))}, "paper", minimum) == [
        "a: 78.90 is below 80.00 by more than 1.00",
        "b: nan is below 50.00 by more than 0.00",  # neither seeds nor clips that would say more
    ]
    with pytest.raises(ValueError, match="no scores of a"):
        gate.below({"b": good}, "paper", minimum)
    with pytest.raises(ValueError, match="holds scores of protocol paper, not of hear"):
        gate.below({"a": good, "b": good}, "hear", minimum)
    gate.write_csv({"a": score(56.4166655)}, "paper", minimum)  # nothing is lost to rounding
    assert gate.below({"a": score(56.4166655)}, "paper", minimum) == []
    minimum.write_text("task,protocol,mean,half_width\n")
    with pytest.raises(ValueError, match="holds no scores"):
        gate.below({"a": good}, "paper", minimum)


def test_the_gate_knows_chance(tmp_path):
    """A single seed that comes out a hair lower is no regression; five points of 400 clips are not
    chance, with more seeds.
    """
    minimum = tmp_path / "min.csv"

    def passes(stored: Score, new: Score) -> bool:
        gate.write_csv({"a": stored}, "paper", minimum)
        assert gate.read_csv(minimum, "paper") == {"a": stored}
        return gate.below({"a": new}, "paper", minimum) == []

    one = summarise({0: 80.0}, clips=400)
    assert passes(one, summarise({0: 79.99}, clips=400))
    assert passes(one, summarise({0: 75.0}, clips=400)) and not passes(one, summarise({0: 73.0}, clips=400))
    assert passes(summarise({0: 80.0}), summarise({0: 75.0}, clips=400))  # of a file that says nothing of clips
    assert passes(summarise({0: 100.0}, clips=50), summarise({0: 98.0}, clips=50))  # one clip
    assert not passes(summarise({0: 80.0}, clips=100_000), summarise({0: 79.0}, clips=100_000))
    # Of 79, 80, 81 the deviation is 1, and t of two degrees of freedom 4.303.
    three = score(79.0, 80.0, 81.0)
    assert gate.tolerance(three, score(75.0)) == pytest.approx(4.3027 * np.sqrt(1 + 1 / 3), rel=1e-4)
    assert gate.tolerance(three, score(75.0, 75.0, 75.0)) == pytest.approx(4.3027 * np.sqrt(2 / 3), rel=1e-4)
    assert gate.tolerance(score(80.0), three) == pytest.approx(4.3027 * np.sqrt(1 + 1 / 3), rel=1e-4)
    assert passes(three, score(75.1)) and not passes(three, score(75.0))


def test_stored_scores_of_earlier_versions(tmp_path):
    (tmp_path / "old.csv").write_text("task,protocol,mean,half_width\na,paper,80.0,1.5\nb,paper,50.0,\n")
    found = gate.read_csv(tmp_path / "old.csv", "paper")
    assert found == {"a": Score(80.0, 1.5, {}), "b": Score(50.0, None, {})}
    for text in ("task,protocol\na,paper\n", "\0", "task,protocol,mean,half_width,seeds\na,paper,1.0,,0\n"):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(ValueError, match=r"bad\.csv (must have the columns|holds no scores)"):
            gate.read_csv(tmp_path / "bad.csv", "paper")
