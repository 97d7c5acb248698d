"""Running the command that packs, and reading its tables."""

from __future__ import annotations

import csv
from pathlib import Path

from click.testing import CliRunner

from hear_mwmae.cli import main


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["pack", "--jobs", "1", *map(str, arguments)])
    return result.exit_code, result.output
