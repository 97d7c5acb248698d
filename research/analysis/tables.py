"""The tables of an analysis, and its summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from hear_mwmae.bootstrap import INTERVAL, Estimate

from .measure import COMPARED, VIEWS, Measured

#: Measures whose spread over the heads is compared between models.
SPREAD_MEASURES = ("distance", "entropy")
#: How the heads of a model spread, from their means over clips (..., blocks, heads).
SPREADS = {
    "mean": lambda heads: heads.mean(axis=(-2, -1)),
    "SD over all heads": lambda heads: heads.std(axis=(-2, -1)),
    "mean SD within blocks": lambda heads: heads.std(axis=-1).mean(axis=-1),
    "range": lambda heads: heads.max(axis=(-2, -1)) - heads.min(axis=(-2, -1)),
}

Row = dict[str, object]


def head_rows(measured: Sequence[Measured], counts: np.ndarray) -> Iterator[Row]:
    """A row per model, view, block and head, with 95 % intervals over clips."""
    for model in measured:
        for view in VIEWS:
            drawn = {
                name: np.percentile(_draw(values, counts), INTERVAL, axis=0)
                for name, values in model.statistics[view].items()
            }
            windows = model.windows(view)
            for block, head in np.ndindex(model.heads(view, "distance").shape):
                row: Row = {"model": model.name, "view": str(view), "block": block + 1}
                row |= {"head": head + 1, "window": windows[head]}
                for name, (low, high) in drawn.items():
                    row[name] = model.heads(view, name)[block, head]
                    row[f"{name}_low"] = low[block, head]
                    row[f"{name}_high"] = high[block, head]
                yield row


def similarity_rows(measured: Sequence[Measured]) -> Iterator[Row]:
    """A row per model, view and ordered pair of heads: PWCCA with the weights of the first,
    symmetric PWCCA, and CKA.
    """
    for model in measured:
        for view in COMPARED:
            found = model.similarity[view]
            heads = len(model.windows(view))
            for i, j in np.ndindex(found.cka.shape):
                row: Row = {"model": model.name, "view": str(view)}
                row |= {"block_a": i // heads + 1, "head_a": i % heads + 1}
                row |= {"block_b": j // heads + 1, "head_b": j % heads + 1}
                row |= {"pwcca_weights_of_a": found.weighted[i, j]}
                yield row | {"pwcca": found.pwcca[i, j], "cka": found.cka[i, j]}


def window_rows(measured: Sequence[Measured]) -> Iterator[Row]:
    """A row per model with windows: equal against unequal windows across blocks; and a row per pair
    of such models, the same clips drawn for both.
    """
    for view in COMPARED:
        found = {model.name: (model, model.by_window.get(view)) for model in measured}
        windowed = {name: (model, by) for name, (model, by) in found.items() if by}
        for name, (model, by) in windowed.items():
            row: Row = {"model": name, "view": str(view), "equal": by.equal, "unequal": by.unequal}
            row |= _interval(by.equal - by.unequal, by.draws)
            yield row | {"p": by.p, "independent noise": model.null[view]}
        for (name, (_, a)), (other, (_, b)) in combinations(windowed.items(), 2):
            value = a.equal - a.unequal - b.equal + b.unequal
            row = {"model": f"{name} - {other}", "view": str(view)}
            yield row | _interval(value, a.draws - b.draws)


def spread_rows(measured: Sequence[Measured], counts: np.ndarray) -> Iterator[Row]:
    """A row per view, measure, kind of spread and model, and per pair of models with their
    difference, the same clips drawn for both.
    """
    for view in VIEWS:
        for measure in SPREAD_MEASURES:
            drawn = {m.name: _draw(m.statistics[view][measure], counts) for m in measured}
            for kind, spread in SPREADS.items():
                row: Row = {"view": str(view), "measure": measure, "spread": kind}
                values = {m.name: float(spread(m.heads(view, measure))) for m in measured}
                draws = {name: spread(heads) for name, heads in drawn.items()}
                for name, value in values.items():
                    yield row | {"model": name} | _interval(value, draws[name])
                for a, b in combinations(values, 2):
                    found = _interval(values[a] - values[b], draws[a] - draws[b])
                    yield row | {"model": f"{a} - {b}"} | found


def _draw(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(clips, blocks, heads) -> (draws, blocks, heads): means over bootstrap samples."""
    return np.tensordot(counts / counts.sum(axis=1, keepdims=True), values, axes=1)


def _interval(value: float, draws: np.ndarray) -> Row:
    return dict(zip(("value", "low", "high"), Estimate.of(value, draws), strict=True))


def summary(spreads: pd.DataFrame, windows: pd.DataFrame, note: str) -> str:
    """The main numbers as Markdown."""
    sections = [note]
    for (view, measure), rows in spreads.groupby(["view", "measure"], sort=False):
        cells = rows.assign(cell=_cells(rows))
        table = cells.pivot(index="spread", columns="model", values="cell")
        table = table.loc[list(SPREADS), list(rows["model"].unique())]
        sections.append(f"**Attention {measure} of the heads: {view}**\n\n{table.to_markdown()}")
    if len(windows):
        table = windows.assign(difference=_cells(windows)).drop(columns=["value", "low", "high"])
        text = table.fillna("").to_markdown(index=False, floatfmt=".3g")
        sections.append(f"**PWCCA of heads in different blocks, by their windows**\n\n{text}")
    return "\n\n".join(sections) + "\n"


def _cells(rows: pd.DataFrame) -> list[str]:
    values = rows[["value", "low", "high"]].to_numpy()
    return [f"{value:.3g} [{low:.3g}, {high:.3g}]" for value, low, high in values]
