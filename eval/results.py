"""The folder of a model's results: its embeddings and predictions, and whether they belong
together.

RESULTS/TASK/embeddings/               vectors, labels, about.json
RESULTS/TASK/PROTOCOL/seed-N.json      scores of the predictors of one seed
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hear_mwmae.errors import HearMwmaeError
from hear_mwmae.files import read_json
from hear_mwmae.probing.tasks import METADATA, TaskFolder

EMBEDDINGS = "embeddings"
ABOUT = "about.json"


@dataclass(frozen=True)
class Prediction:
    """One task of one model, under one protocol and seed; computed or not."""

    task_dir: Path  #: RESULTS/TASK
    protocol: str
    seed: int

    @property
    def file(self) -> Path:
        return self.task_dir / self.protocol / f"seed-{self.seed}.json"

    @property
    def log(self) -> Path:
        """Output of a failed process."""
        return self.file.with_suffix(".log")

    @property
    def embeddings(self) -> Path:
        return self.task_dir / EMBEDDINGS

    def __str__(self) -> str:
        return f"{self.task_dir.name}, {self.protocol}, seed {self.seed}"

    def is_done(self) -> bool:
        """Whether there is a result for the present embeddings.

        Embeddings may have been removed.
        """
        if not self.file.is_file():
            return False
        about = self.embeddings / ABOUT
        return not about.is_file() or _embeddings_hash(self.file) == _embeddings_hash(about)

    def scores(self) -> dict:
        """heareval's scores.

        HearMwmaeError if they belong to other embeddings than the present ones.
        """
        if not self.is_done():
            raise HearMwmaeError(f"{self.file} belongs to other embeddings than those in {self.task_dir}: predict again")
        return read_json(self.file)["scores"]


def _embeddings_hash(file: Path) -> str:
    found = read_json(file)
    if not isinstance(found, dict) or "embeddings" not in found:
        raise HearMwmaeError(f"{file} does not name its embeddings: remove it, and compute it again")
    return found["embeddings"]


def embedded_tasks(results: Path, names: tuple[str, ...] = ()) -> list[Path]:
    """RESULTS/TASK of all or the named embedded tasks. HearMwmaeError if one or all are missing."""
    folders = {about.parents[1].name: about.parents[1].resolve() for about in sorted(results.glob(f"*/{EMBEDDINGS}/{ABOUT}"))}
    if missing := sorted(set(names) - folders.keys()):
        raise HearMwmaeError(f"{results} has no embeddings of {', '.join(missing)}")
    if not folders:
        raise HearMwmaeError(f"{results} holds no embeddings: see `python -m eval embed --help`")
    return [folder for name, folder in folders.items() if not names or name in names]


def predictions(results: Path, protocol: str) -> dict[str, list[Prediction]]:
    """The predictions of every task, by its name, in order of the seeds."""
    found: dict[str, list[Prediction]] = {}
    for file in results.glob(f"*/{protocol}/seed-*.json"):
        seed = file.stem.removeprefix("seed-")
        if not seed.isdecimal():
            raise HearMwmaeError(f"{file} is not named after a seed, such as seed-0.json")
        task_dir = file.parents[1]
        found.setdefault(task_dir.name, []).append(Prediction(task_dir, protocol, int(seed)))
    return {name: sorted(found[name], key=lambda prediction: prediction.seed) for name in sorted(found)}


def tested_clips(embeddings: Path) -> int | None:
    """Number of tested clips of a task: all folds, or the test split.

    None if the embeddings were removed.
    """
    if not (embeddings / METADATA).is_file():
        return None
    task = TaskFolder(embeddings)
    return sum(len(task.labels(split)) for split in task.tested)
