"""One printed line per clip, if no table is requested."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .parts import Group


class Lines:
    """A sink that calls ``echo`` with a line per clip: the shape, and the mean over its time steps.

    Attributes:
        failures: name and reason of every recording that could not be embedded.
    """

    def __init__(self, echo: Callable[[str], object]) -> None:
        self.echo = echo
        self.failures: list[tuple[str, str]] = []
        self.sums: list[tuple[int, np.ndarray]] = []  # rows of a clip, or of a piece of it, and their sum
        self.steps = False

    def append(self, embeddings: np.ndarray, timestamps: np.ndarray | None = None) -> None:
        """(n, size) rows of the next group: one per clip, or with timestamps the rows of one clip
        or of a piece of it.
        """
        self.steps = timestamps is not None
        self.sums += [(len(embeddings), embeddings.sum(axis=0))] if self.steps else [(1, row) for row in embeddings]

    def commit(self, group: Group) -> None:
        """Assign the rows to the clips of ``group``, in their order."""
        sums = iter(self.sums)
        for name, rows in group.clips:
            count, total = next(sums)
            while count < rows:
                more, piece = next(sums)
                count, total = count + more, total + piece
            values = total / count
            shape = f"{count} x {len(values)}" if self.steps else len(values)
            head = " ".join(f"{value:+.3f}" for value in values[:6])
            numbers = f"mean {values.mean():+.3f}, norm {np.linalg.norm(values):.2f}, starts {head}"
            self.echo(f"{name}: {shape} float32, {numbers}")
        self.failures += group.failures
        self.sums = []

    def rollback(self) -> None:
        """Discard the rows since the last group."""
        self.sums = []
