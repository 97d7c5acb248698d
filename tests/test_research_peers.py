"""research.peers: the comparison with other packages, on a small task with small encoders."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from small_encoders import CROSSINGS, ELSEWHERE

from research.peers import __main__ as peers
from research.peers import encoders
from research.peers import measure as measuring
from research.peers.tables import all_tables

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(peers.main, list(map(str, arguments)), catch_exceptions=False)


def test_measure_and_print(task, tmp_path, monkeypatch):
    first = CROSSINGS._replace(key="embedded", title="First")
    monkeypatch.setattr(encoders, "read_encoders", lambda: [first, CROSSINGS, ELSEWHERE])
    run(task, "-o", tmp_path, "--only", "mfcc")
    found = measuring.Result.model_validate_json((tmp_path / "mfcc.json").read_bytes())
    assert (found.numbers, found.parameters) == (2, 7)
    assert found.seconds == pytest.approx(36 * 0.5)
    assert 10 < found.peak_memory < 4000

    # The first encoder is wrong in the first half of each split.
    splits = [len(marks) for marks in found.tasks["tones"].correct["ridge"]]
    marks = ["0" * (clips // 2) + "1" * (clips - clips // 2) for clips in splits]
    half = measuring.Answers(labels=2, correct={"logistic": marks, "ridge": marks})
    worse = found.model_copy(update={"tasks": {"tones": half}})
    (tmp_path / "embedded.json").write_text(worse.model_dump_json())
    done = run(task, "-o", tmp_path, "--only", "aisfx")
    assert "Elsewhere: No package metadata was found for no_such_package" in done.stderr
    rows = [row for row in done.stdout.splitlines() if "Crossings" in row and "| 50.0 [" in row]
    assert len(rows) == 2  # for each classifier; 50.0 is the difference from the first encoder
    assert all("| **100.0 [100.0, 100.0]** |" in row for row in rows)
    assert "`pip install crossings`" in done.stdout and "| tones  | 36" in done.stdout
    assert run("-o", tmp_path).stdout == done.stdout

    other = found.model_copy(update={"tasks": {"other": half}})
    (tmp_path / "mfcc.json").write_text(other.model_dump_json())
    refused = run("-o", tmp_path)
    assert refused.exit_code == 1 and "mfcc has results of other tasks" in refused.stderr


def test_the_page_has_the_results():
    page = (ROOT / "docs" / "comparison.md").read_text()
    results = []
    for encoder in encoders.read_encoders():
        file = ROOT / "research" / "peers" / "results" / f"{encoder.key}.json"
        results.append((encoder, measuring.Result.model_validate_json(file.read_bytes())))
    assert set(all_tables(results).splitlines()) <= set(page.splitlines())


def test_the_embedded_model_is_an_encoder():
    (encoder,) = (one for one in encoders.read_encoders() if one.key == "embedded")
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    embed, parameters = encoder.load()
    assert embed(noise).shape == embed(noise[:800]).shape == (3840,)
    assert parameters > 5e6
