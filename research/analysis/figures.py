"""Figures of the analysis, readable in print and by the colour-blind."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from hear_mwmae.files import replacing

from .measure import Measured, View

STYLE: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}


def save(figure: Figure, path: Path) -> None:
    """As a PNG."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)


def window_name(window: int) -> str:
    """The size of a window; 0 is global."""
    return str(window) if window else "global"


@matplotlib.rc_context(STYLE)
def heads_over_blocks(every: pd.DataFrame, view: View) -> Figure:
    """Attention distance and entropy of every head over the blocks, a column per model. The rows
    are those of `Measured`, and name the model.

    Colours go from dark to light with the size of the window; global heads are black. Grey marks
    show the distance of uniform attention over all visible keys.
    """
    models = list(every.groupby("model", sort=False))
    sizes = sorted(set(every["window"]) - {0})
    shades = colormaps["viridis"](np.linspace(0.1, 0.9, len(sizes)))
    colours = dict(zip(sizes, shades, strict=True)) | {0: "black"}
    figure = Figure(figsize=(1.2 + 1.7 * len(models), 3.9), layout="constrained")
    axes = figure.subplots(2, len(models), squeeze=False, sharex="col", sharey="row")
    for (distance, entropy), (name, heads) in zip(axes.T, models, strict=True):
        # Beside one another, so that none hides another.
        place = heads["block"] + 0.6 * ((heads["head"] - 0.5) / heads["head"].max() - 0.5)
        marks = {"s": 9, "c": [colours[window] for window in heads["window"]]}
        distance.scatter(place, heads["distance"], **marks)
        distance.scatter(place, heads["distance_uniform"], s=9, c="0.55", marker="_", zorder=0)
        entropy.scatter(place, heads["entropy"], **marks)
        distance.set_title(name)
        entropy.set_xlabel(f"{view.part} block")
        entropy.set_xticks(heads["block"].unique())
    axes[0, 0].set_ylabel("attention distance (patches)")
    axes[1, 0].set_ylabel("entropy / ln(visible keys)")
    axes[0, 0].set_ylim(bottom=0)
    axes[1, 0].set_ylim(0, 1.03)
    if sizes:
        for window, colour in colours.items():
            axes[0, -1].scatter([], [], color=colour, label=window_name(window), s=16)
        figure.legend(title="window (tokens)", loc="outside right center", frameon=False)
    return figure


@matplotlib.rc_context(STYLE)
def similarity_matrix(found: Measured, title: str) -> Figure:
    """Symmetric PWCCA of all pairs of heads, ordered by window (if the model has any) and block."""
    windows, blocks = found.heads["window"], found.heads["block"]
    order = np.lexsort((blocks, windows.replace(0, np.inf)))
    names = [f"{window_name(windows[n])}, {blocks[n]}" for n in order]
    values = found.pwcca[np.ix_(order, order)]
    np.fill_diagonal(values, np.nan)  # a head and itself
    side = max(3.4, 0.14 * len(order))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(values, vmin=0, cmap="cividis")
    axis.set_xticks(range(len(order)), names, rotation=90, fontsize=6)
    axis.set_yticks(range(len(order)), names, fontsize=6)
    axis.set_title(title)
    figure.colorbar(image, ax=axis, label="PWCCA", shrink=0.8)
    return figure
