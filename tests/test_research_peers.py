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
from small_encoders import CONSTANT, CROSSINGS, ELSEWHERE, PROCESS

from hear_mwmae.tasks import read_task
from research.peers import __main__ as peers
from research.peers import encoders, measure
from research.peers.measure import fingerprint, stored
from research.peers.page import BEGIN, END

ROOT = Path(__file__).resolve().parents[1]
REAL = encoders.read_encoders()


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[pytest.MonkeyPatch]:
    """The small encoders, in a thread: a process takes seconds to begin."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(encoders, "read_encoders", lambda: [CONSTANT, CROSSINGS, ELSEWHERE])
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
    monkeypatch.setattr(encoders, "read_encoders", lambda: [PROCESS])
    run(task, "-o", tmp_path)
    result = stored(tmp_path, PROCESS, {"tones": fingerprint(read_task(task))})
    assert result.parameters != os.getpid()
    assert 10 < result.peak_memory < 4000


def test_a_row_for_every_encoder_whose_package_is_there(results, task):
    out, done = results
    assert "Elsewhere: no_such_package missing: pip install elsewhere" in done.stderr
    assert len([row for row in done.stdout.splitlines() if row.startswith("| Constant ")]) == 4
    found = stored(out, CROSSINGS, {"tones": fingerprint(read_task(task))})
    assert (found.numbers, found.parameters) == (2, 7)
    assert found.tasks["tones"].seconds == pytest.approx(36 * 0.5)
    assert stored(out, CROSSINGS, {"tones": "of other audio"}) is None


def test_the_tables_of_a_page_are_replaced(results, task, tmp_path):
    out, _ = results
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    again = run(task, "-o", out, "--page", page)
    assert "measuring" not in again.stderr
    text = page.read_text()
    assert text.startswith("# Before\n") and text.endswith("\n\nAfter.\n") and "old" not in text
    assert "### Accuracy, logistic" in text and "### Accuracy, ridge" in text
    rows = [line for line in text.splitlines() if "Crossings" in line and "| 50.0 [" in line]
    assert len(rows) == 2  # for each classifier; 50.0 is the difference from the first encoder
    assert all("| **100.0 [100.0, 100.0]** |" in row for row in rows)
    assert "`pip install crossings`" in text and "| tones  | 36" in text
    kept_page = (ROOT / "docs" / "comparison.md").read_text()
    assert kept_page.count(BEGIN) == kept_page.count(END) == 1


@pytest.mark.parametrize("key", ["embedded", "log-mel"])
def test_real_encoders(key):
    (encoder,) = (one for one in REAL if one.key == key)
    rng = np.random.default_rng(0)
    embed, parameters = encoder.load()
    long, short = (embed(rng.normal(0, 0.1, n).astype(np.float32)) for n in (16000, 800))
    assert long.shape == short.shape and long.ndim == 1
    assert np.isfinite(long).all() and np.isfinite(short).all()
    assert encoder.version() and (parameters > 5e6) == (key == "embedded")
