"""research.peers: the comparison with other packages, on a small task with small encoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from small_encoders import CONSTANT, CROSSINGS, ELSEWHERE

from hear_mwmae.tasks import read_task
from research.peers import __main__ as peers
from research.peers import encoders
from research.peers.measure import fingerprint, stored
from research.peers.page import BEGIN, END

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: object) -> Result:
    done = CliRunner().invoke(peers.main, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_results_and_the_tables_of_a_page(task, tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "read_encoders", lambda: [CONSTANT, CROSSINGS, ELSEWHERE])
    out = tmp_path / "results"
    done = run(task, "-o", out)
    assert "Elsewhere: no_such_package missing: pip install elsewhere" in done.stderr
    prints = {"tones": fingerprint(read_task(task))}
    found = stored(out, CROSSINGS, prints)
    assert (found.numbers, found.parameters) == (2, 7)
    assert found.tasks["tones"].seconds == pytest.approx(36 * 0.5)
    assert 10 < found.peak_memory < 4000
    assert stored(out, CROSSINGS, {"tones": "of other audio"}) is None

    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    again = run(task, "-o", out, "--page", page)
    assert "measuring" not in again.stderr and again.stdout == done.stdout
    text = page.read_text()
    assert text == f"# Before\n\n{BEGIN}\n\n{done.stdout}\n{END}\n\nAfter.\n"
    rows = [line for line in text.splitlines() if "Crossings" in line and "| 50.0 [" in line]
    assert len(rows) == 2  # for each classifier; 50.0 is the difference from the first encoder
    assert all("| **100.0 [100.0, 100.0]** |" in row for row in rows)
    assert "`pip install crossings`" in text and "| tones  | 36" in text
    kept_page = (ROOT / "docs" / "comparison.md").read_text()
    assert kept_page.count(BEGIN) == kept_page.count(END) == 1


@pytest.mark.parametrize("key", ["embedded", "log-mel"])
def test_real_encoders(key):
    (encoder,) = (one for one in encoders.read_encoders() if one.key == key)
    rng = np.random.default_rng(0)
    embed, parameters = encoder.load()
    long, short = (embed(rng.normal(0, 0.1, n).astype(np.float32)) for n in (16000, 800))
    assert long.shape == short.shape and long.ndim == 1
    assert np.isfinite(long).all() and np.isfinite(short).all()
    assert encoder.version() and (parameters > 5e6) == (key == "embedded")
