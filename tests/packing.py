"""Running the command that packs, and reading what it made."""

import csv
from collections.abc import Callable
from pathlib import Path

import datasets
from click.testing import CliRunner

from hear_mwmae.cli import main


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def run(*arguments: object) -> tuple[int, str]:
    """Pack all but the last of the arguments into the last, a folder."""
    *sources, out = arguments
    words = ["pack", "--jobs", 1, *sources, "--out", out]
    result = CliRunner().invoke(main, list(map(str, words)))
    return result.exit_code, result.output


def change_clips(data: Path, out: Path, change: Callable[[dict, int], dict]) -> Path:
    """A copy of a data set; ``change`` gets the row and the number of each clip."""
    made = datasets.load_from_disk(str(data))
    copy = made.map(change, with_indices=True, load_from_cache_file=False, keep_in_memory=True)
    copy.save_to_disk(str(out))
    return out


def damage_clip(data: Path, out: Path, damaged_number: int) -> Path:
    """A copy of a data set in which that clip cannot be decoded."""

    def damaged(row: dict, number: int) -> dict:
        if number == damaged_number:
            row["audio"]["bytes"] = row["audio"]["bytes"][:100] + bytes(1000)
        return row

    return change_clips(data, out, damaged)
