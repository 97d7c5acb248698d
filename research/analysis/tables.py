"""The tables of an analysis, and its summary."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from hear_mwmae.bootstrap import Estimate

from .measure import COMPARED, VIEWS, Measured

#: How the heads of a model spread, from their means over clips (..., blocks, heads).
SPREADS = {
    "mean": lambda heads: heads.mean(axis=(-2, -1)),
    "SD over all heads": lambda heads: heads.std(axis=(-2, -1)),
    "mean SD within blocks": lambda heads: heads.std(axis=-1).mean(axis=-1),
    "range": lambda heads: heads.max(axis=(-2, -1)) - heads.min(axis=(-2, -1)),
}

Row = dict[str, object]


def head_rows(measured: Sequence[Measured]) -> Iterator[Row]:
    """A row per model, view, block and head: means over the clips."""
    for model in measured:
        for view in VIEWS:
            for block, head in np.ndindex(model.heads(view, "distance").shape):
                row: Row = {"model": model.name, "view": str(view), "block": block + 1}
                row |= {"head": head + 1, "window": model.windows(view)[head]}
                for name in model.statistics[view]:
                    row[name] = model.heads(view, name)[block, head]
                yield row


def window_rows(measured: Sequence[Measured]) -> Iterator[Row]:
    """A row per model with windows: equal against unequal windows across blocks; and a row per pair
    of such models, the same clips drawn for both.
    """
    for view in COMPARED:
        windowed = [model for model in measured if view in model.by_window]
        for model in windowed:
            by = model.by_window[view]
            row: Row = {"model": model.name, "view": str(view), "noise": model.null[view]}
            row |= {"equal": by.equal, "unequal": by.unequal}
            yield row | _interval(by.difference, by.draws)
        for one, other in combinations(windowed, 2):
            a, b = one.by_window[view], other.by_window[view]
            row = {"model": f"{one.name} - {other.name}", "view": str(view)}
            yield row | _interval(a.difference - b.difference, a.draws - b.draws)


def spread_rows(measured: Sequence[Measured], counts: np.ndarray) -> Iterator[Row]:
    """A row per view, measure, kind of spread and model, and per pair of models with their
    difference, the same clips drawn for both.
    """
    weights = counts / counts.sum(axis=1, keepdims=True)
    for view in VIEWS:
        for measure in ("distance", "entropy"):
            for kind, spread in SPREADS.items():
                row: Row = {"view": str(view), "measure": measure, "spread": kind}
                found = {}
                for model in measured:
                    drawn = np.tensordot(weights, model.statistics[view][measure], axes=1)
                    found[model.name] = spread(model.heads(view, measure)), spread(drawn)
                    yield row | {"model": model.name} | _interval(*found[model.name])
                for (one, (a, drawn_a)), (other, (b, drawn_b)) in combinations(found.items(), 2):
                    yield row | {"model": f"{one} - {other}"} | _interval(a - b, drawn_a - drawn_b)


def _interval(value: float, draws: np.ndarray) -> Row:
    return dict(zip(("value", "low", "high"), Estimate.of(value, draws), strict=True))


def summary(spreads: pd.DataFrame, windows: pd.DataFrame, note: str) -> str:
    """The main numbers as Markdown."""
    sections = [note]
    for (view, measure), rows in spreads.groupby(["view", "measure"], sort=False):
        table = rows.assign(cell=_cells(rows)).pivot(index="model", columns="spread", values="cell")
        table = table.loc[rows["model"].unique(), list(SPREADS)]
        sections.append(f"**Attention {measure} of the heads: {view}**\n\n{table.to_markdown()}")
    if len(windows):
        table = windows.assign(difference=_cells(windows)).drop(columns=["value", "low", "high"])
        table = table.astype(object).where(table.notna(), "")
        text = table.to_markdown(index=False, floatfmt=".3g")
        sections.append(f"**PWCCA of heads in different blocks, by their windows**\n\n{text}")
    return "\n\n".join(sections) + "\n"


def _cells(rows: pd.DataFrame) -> list[str]:
    values = rows[["value", "low", "high"]].to_numpy()
    return [f"{value:.3g} [{low:.3g}, {high:.3g}]" for value, low, high in values]
