"""research.peers: the comparison with other packages, on a small task with small encoders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from small_encoders import Constant, Crossings, Elsewhere, Process

from hear_mwmae.probe import predict, score
from hear_mwmae.tasks import read_task
from research.peers import __main__ as peers
from research.peers import encoders, measure
from research.peers.measure import Timed, stored
from research.peers.page import BEGIN, END

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[pytest.MonkeyPatch]:
    """The small encoders, in a thread: a process takes seconds to begin."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(encoders, "ENCODERS", (Constant, Crossings, Elsewhere))
        patched.setattr(measure, "ProcessPoolExecutor", lambda count, _: ThreadPoolExecutor(count))
        yield patched
    torch.set_num_threads(threads)


def run(*arguments: object) -> Result:
    done = CliRunner().invoke(peers.main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def results(task, tmp_path_factory) -> tuple[Path, Result]:
    """A folder with the results of one command, and what it said."""
    out = tmp_path_factory.mktemp("peers") / "results"
    return out, run(task, "-o", out)


def test_an_encoder_has_a_process_of_its_own(task, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "ProcessPoolExecutor", ProcessPoolExecutor)
    monkeypatch.setattr(encoders, "ENCODERS", (Process,))
    run(task, "-o", tmp_path)
    result = stored(tmp_path, Process)
    assert result.parameters != os.getpid()
    assert 10 < result.peak_memory < 4000


def test_a_row_for_every_encoder_whose_package_is_there(results, task):
    out, done = results
    assert "Elsewhere: not measured, no_such_package missing: pip install elsewhere" in done.stderr
    head, _, constant, crossings = done.stdout.splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        *("embedding", "numbers", "tones", "mean", "speed")
    ]
    assert "Constant" in constant and "50.0" in constant
    assert "Crossings" in crossings and "**100.0**" in crossings
    assert sorted(path.name for path in out.iterdir()) == ["constant.json", "crossings.json"]
    found = stored(out, Crossings)
    assert (found.numbers, found.parameters, found.version) == (2, 7, "1")
    assert found.tasks["tones"].seconds == pytest.approx(36 * 0.5)
    expected = score(predict(read_task(task), Timed(Constant()), "ridge"), 0)
    assert str(stored(out, Constant).tasks["tones"].score("ridge", 0)) == str(expected)


def test_the_tables_of_a_page_are_replaced(results, task, tmp_path):
    out, _ = results
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    run(task, "-o", out, "--page", page)
    text = page.read_text()
    assert text.startswith("# Before\n") and text.endswith("\n\nAfter.\n") and "old" not in text
    assert "### Accuracy, logistic" in text and "### Accuracy, ridge" in text
    rows = [line for line in text.splitlines() if "Crossings" in line and "| 50.0 [" in line]
    assert len(rows) == 2  # for each classifier; 50.0 is the difference from the first encoder
    assert all("| **100.0 [100.0, 100.0]** |" in row for row in rows)
    assert "`pip install crossings`" in text and "| tones  | 36" in text
    run(task, "-o", out, "--page", page)
    assert page.read_text() == text
    kept_page = (ROOT / "docs" / "comparison.md").read_text()
    assert kept_page.count(BEGIN) == kept_page.count(END) == 1
    page.write_text("# No marks\n")
    done = CliRunner().invoke(peers.main, [str(task), "-o", str(out), "--page", str(page)])
    assert done.exit_code == 1 and "lacks the marks" in done.output


@pytest.mark.parametrize("kind", [encoders.Embedded, encoders.LogMel])
def test_real_encoders(kind):
    if kind.missing():
        pytest.skip(f"needs {kind.install}")
    rng = np.random.default_rng(0)
    encoder = kind()
    long, short = (encoder.embed(rng.normal(0, 0.1, n).astype(np.float32)) for n in (16000, 800))
    assert long.shape == short.shape and long.ndim == 1
    assert np.isfinite(long).all() and np.isfinite(short).all()
    assert kind.version() and (encoder.parameters > 5e6) == (kind is encoders.Embedded)
