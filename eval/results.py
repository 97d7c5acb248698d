"""The folder of a model's results: its embeddings and scores, and whether they belong together.

RESULTS/TASK/embeddings/               vectors, labels, about.json
RESULTS/TASK/PROTOCOL/seed-N.json      scores of the predictors of one seed
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import read_json

EMBEDDINGS = "embeddings"
ABOUT = "about.json"


@dataclass(frozen=True)
class Result:
    """One task of one model, under one protocol and seed; computed or not."""

    task_dir: Path  #: RESULTS/TASK
    protocol: str
    seed: int

    @property
    def file(self) -> Path:
        return self.task_dir / self.protocol / f"seed-{self.seed}.json"

    @property
    def log(self) -> Path:
        """Output of a failed or running process."""
        return self.file.with_suffix(".log")

    @property
    def embeddings(self) -> Path:
        return self.task_dir / EMBEDDINGS

    def __str__(self) -> str:
        return f"{self.task_dir.name}, {self.protocol}, seed {self.seed}"

    def is_done(self) -> bool:
        """Whether it is computed, of the present embeddings.

        Embeddings may have been removed.
        """
        if not self.file.is_file():
            return False
        about = self.embeddings / ABOUT
        return not about.is_file() or read_json(self.file)["embeddings"] == read_json(about)["made"]

    def read(self) -> dict[str, Any]:
        """The content of the file: heareval's "scores", and what made them.

        HearMwmaeError if they belong to other embeddings than the present ones.
        """
        if not self.is_done():
            raise HearMwmaeError(
                f"{self.file} belongs to other embeddings than those in {self.task_dir}: "
                "predict again"
            )
        return read_json(self.file)


def embedded_tasks(results: Path, names: tuple[str, ...] = ()) -> list[Path]:
    """RESULTS/TASK of all or the named embedded tasks. HearMwmaeError if one or all are missing."""
    found = [file.parents[1].resolve() for file in sorted(results.glob(f"*/{EMBEDDINGS}/{ABOUT}"))]
    if missing := sorted(set(names) - {folder.name for folder in found}):
        raise HearMwmaeError(f"{results} has no embeddings of {', '.join(missing)}")
    if not found:
        raise HearMwmaeError(f"{results} holds no embeddings: see `python -m eval embed --help`")
    return [folder for folder in found if not names or folder.name in names]


def find_results(results: Path, protocol: str) -> dict[str, list[Result]]:
    """The computed results of every task, by its name, in order of the seeds."""
    found: dict[str, list[Result]] = {}
    for file in sorted(results.glob(f"*/{protocol}/seed-*.json")):
        task_dir = file.parents[1]
        result = Result(task_dir, protocol, int(file.stem.removeprefix("seed-")))
        found.setdefault(task_dir.name, []).append(result)
    return {name: sorted(task, key=lambda result: result.seed) for name, task in found.items()}


def provenance(module: str = "") -> dict[str, Any]:
    """The time, and the versions of heareval, its libraries and the HEAR module."""
    names = ["heareval", "torch", "pytorch-lightning", "numpy", "scikit-learn"]
    names += metadata.packages_distributions().get(module.partition(".")[0], [])[:1]
    return {
        "made": datetime.now(UTC).isoformat(),
        "versions": {name: metadata.version(name) for name in names},
    }
