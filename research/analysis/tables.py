"""The tables behind the figures: rows of plain values, and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from .attention_stats import MEASURES
from .measure import COMPARED, VIEWS, Measured, View
from .resampling import INTERVAL, Estimate, spread

#: Measures that are compared between models.
SPREAD_MEASURES = ("distance", "entropy_normalised")

Row = dict[str, object]


def head_rows(measured: Sequence[Measured], counts: np.ndarray) -> list[Row]:
    """A row per model, view, block and head, with 95 % intervals over clips of distance and
    normalised entropy.
    """
    rows = []
    weights = counts / counts.sum(axis=1, keepdims=True)
    for model in measured:
        for view in VIEWS:
            values = {name: model.heads(view, name) for name in MEASURES}
            bounds = {
                name: np.percentile(np.tensordot(weights, model.statistics[view][name], axes=1), INTERVAL, axis=0)
                for name in SPREAD_MEASURES
            }
            for block, head in np.ndindex(values["distance"].shape):
                row: Row = {**about(model, view), "block": block + 1, "head": head + 1, "window": model.windows[view.part][head]}
                row |= {name: float(value[block, head]) for name, value in values.items()}
                for name, (low, high) in bounds.items():
                    row |= {f"{name}_low": float(low[block, head]), f"{name}_high": float(high[block, head])}
                rows.append(row)
    return rows


def similarity_rows(measured: Sequence[Measured]) -> list[Row]:
    """A row per model, part and ordered pair of heads: PWCCA with the weights of the first,
    symmetric PWCCA, and CKA.
    """
    rows = []
    for model in measured:
        for view in COMPARED:
            windows, found = model.windows[view.part], model.similarity[view].matrices
            for i, j in np.ndindex(found.pwcca.shape):
                (block_a, head_a), (block_b, head_b) = divmod(i, len(windows)), divmod(j, len(windows))
                row: Row = {**about(model, view), "block_a": block_a + 1, "head_a": head_a + 1, "window_a": windows[head_a]}
                row |= {"block_b": block_b + 1, "head_b": head_b + 1, "window_b": windows[head_b]}
                row |= {"pwcca_weights_of_a": found.weighted[i, j], "pwcca": found.pwcca[i, j], "cka": found.cka[i, j]}
                rows.append(row)
    return rows


def window_rows(measured: Sequence[Measured]) -> list[Row]:
    """A row per model with windows: equal against unequal windows across blocks."""
    rows = []
    for model in measured:
        for view in COMPARED:
            found = model.similarity[view]
            if found.by_window:
                effect = found.by_window.effect
                row: Row = {**about(model, view), "equal": effect.equal, "unequal": effect.unequal}
                row |= _interval("difference", found.by_window.difference)
                row |= {"superiority": effect.superiority, "p": effect.p, "noise_level": found.null}
                rows.append(row)
    return rows


def window_comparison_rows(measured: Sequence[Measured]) -> list[Row]:
    """A row per pair of models with windows: how much larger the effect of windows is in the first,
    the same clips for both.
    """
    rows = []
    for view in COMPARED:
        windowed = [(model.name, found) for model in measured if (found := model.similarity[view].by_window)]
        for (name_a, a), (name_b, b) in combinations(windowed, 2):
            larger = Estimate.of(a.effect.difference - b.effect.difference, a.draws - b.draws)
            rows.append({"model_a": name_a, "model_b": name_b, "part": view.part, **_interval("a_minus_b", larger)})
    return rows


def spread_rows(measured: Sequence[Measured], counts: np.ndarray) -> list[Row]:
    """A row per model, view, measure and kind of spread over the heads."""
    return [
        {**about(model, view), "measure": name, "spread": kind, **_interval("value", Estimate.of(*found))}
        for model in measured
        for view in VIEWS
        for name in SPREAD_MEASURES
        for kind, found in spread(model.statistics[view][name], counts).items()
    ]


def comparison_rows(measured: Sequence[Measured], counts: np.ndarray) -> list[Row]:
    """Differences and ratios of the spreads of all pairs of models, the same clips drawn
    for both.
    """
    rows = []
    for a, b in combinations(measured, 2):
        for view in VIEWS:
            for name in SPREAD_MEASURES:
                ones, others = (spread(model.statistics[view][name], counts) for model in (a, b))
                for kind, (one, drawn) in ones.items():
                    other, drawn_other = others[kind]
                    row: Row = {"model_a": a.name, "model_b": b.name, "part": view.part, "masked": view.masked}
                    row |= {"measure": name, "spread": kind}
                    row |= _interval("a_minus_b", Estimate.of(one - other, drawn - drawn_other))
                    with np.errstate(divide="ignore", invalid="ignore"):  # a block of one head has no spread
                        row |= _interval("a_over_b", Estimate.of(np.divide(one, other), drawn / drawn_other))
                    rows.append(row)
    return rows


def about(model: Measured, view: View) -> Row:
    """The first columns of every table: model, part and situation."""
    return {"model": model.name, "trained": model.trained, "part": view.part, "masked": view.masked}


def _interval(name: str, estimate: Estimate) -> Row:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def csv_text(rows: Sequence[Row]) -> str:
    """Numbers with six significant digits; columns of the first row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float | np.floating) else v for k, v in row.items()} for row in rows)
    return text.getvalue()
