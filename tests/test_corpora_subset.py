"""Hours of a kind drawn from manifests."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from corpora.manifest import read_manifest, write_manifest
from corpora.subset import main


@pytest.fixture
def manifest(tmp_path):
    rows = [(f"audio/{number:03d}.flac", 36.0, "p", "1", kind, "CC0-1.0") for kind in ("music", "notes") for number in range(100)]
    write_manifest(tmp_path, rows)
    return tmp_path / "manifest.csv"


def drawn(manifest: Path, *options: str) -> list[dict[str, str]]:
    result = CliRunner().invoke(main, [str(manifest), *options])
    assert result.exit_code == 0, result.output
    return list(read_manifest(manifest.with_name("subset.csv")))


def test_a_limit_holds_for_its_kind_only(manifest):
    rows = drawn(manifest, "--hours", "music=0.25")
    assert sum(row["kind"] == "music" for row in rows) == 25 and sum(row["kind"] == "notes" for row in rows) == 100
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert rows == drawn(manifest, "--hours", "music=0.25") != drawn(manifest, "--hours", "music=0.25", "--seed", "1")


def test_a_bad_limit_is_named(manifest):
    result = CliRunner().invoke(main, [str(manifest), "--hours", "music"])
    assert result.exit_code == 2 and "expected KIND=HOURS, got music" in result.output


def test_a_kind_that_is_not_there_is_named(manifest):
    result = CliRunner().invoke(main, [str(manifest), "--hours", "musik=4"])
    assert result.exit_code == 2 and "no kind musik in the manifests; there are: music, notes" in result.output
