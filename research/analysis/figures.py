"""Figures of the analysis, readable in print and by the colour-blind, each a PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hear_mwmae.files import replacing

from .measure import Measured, View

#: Of Okabe and Ito's palette for all kinds of colour vision.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "0.55"
STYLE: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}


def save(figure: Figure, path: Path) -> None:
    """As a PNG."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)


def window_name(window: int) -> str:
    """The size of a window; 0 is global."""
    return str(window) if window else "global"


def window_colours(windows: Sequence[int]) -> dict[int, Any]:
    """From dark to light with the size of the window; global heads are black."""
    sizes = sorted({window for window in windows if window})
    shades = colormaps["viridis"](np.linspace(0.1, 0.9, len(sizes)))
    return dict(zip(sizes, shades, strict=True)) | {0: "black"}


@matplotlib.rc_context(STYLE)
def heads_over_blocks(models: Sequence[Measured], view: View) -> Figure:
    """Attention distance and entropy of every head over the blocks, a column per model.

    Grey marks and dotted lines show the distance of uniform attention over all visible keys.
    """
    figure = Figure(figsize=(1.2 + 1.7 * len(models), 3.9), layout="constrained")
    axes = figure.subplots(2, len(models), squeeze=False, sharex="col", sharey="row")
    colours = window_colours([window for model in models for window in model.windows(view)])
    for column, model in enumerate(models):
        axes[0, column].set_title(model.name)
        for axis, measure in zip(axes[:, column], ("distance", "entropy"), strict=True):
            _draw_heads(axis, model, view, measure, colours)
        axes[1, column].set_xlabel(f"{view.part} block")
    axes[0, 0].set_ylabel("attention distance (patches)")
    axes[1, 0].set_ylabel("entropy / ln(visible keys)")
    axes[0, 0].set_ylim(bottom=0)
    axes[1, 0].set_ylim(0, 1.03)
    if len(colours) > 1:
        for window, colour in colours.items():
            axes[0, -1].plot([], [], "o", color=colour, label=window_name(window), ms=4)
        figure.legend(title="window (tokens)", loc="outside right center", frameon=False)
    return figure


def _draw_heads(
    axis: Axes, model: Measured, view: View, measure: str, colours: dict[int, Any]
) -> None:
    windows = model.windows(view)
    values = model.heads(view, measure)
    places = np.arange(1, len(values) + 1)
    # Beside one another, so that none hides another.
    shifts = np.linspace(-0.3, 0.3, len(windows)) if len(windows) > 1 else [0.0]
    for head, shift in enumerate(shifts):
        colour = colours[windows[head]] if any(windows) else BLUE
        axis.plot(places + shift, values[:, head], "o", color=colour, ms=3, mec="none")
        if measure == "distance":
            uniform = model.heads(view, "distance_uniform")[:, head]
            axis.plot(places + shift, uniform, "_", color=GREY, ms=5, zorder=0)
    axis.set_xlim(0.4, len(values) + 0.6)
    axis.xaxis.get_major_locator().set_params(integer=True)


@matplotlib.rc_context(STYLE)
def similarity_matrix(model: Measured, view: View) -> Figure:
    """Symmetric PWCCA of all pairs of heads, ordered by window (if the model has any) and block."""
    windows = model.windows(view)
    values = model.pwcca[view].copy()
    np.fill_diagonal(values, np.nan)  # a head and itself
    heads = len(windows)
    order = sorted(range(len(values)), key=lambda n: (windows[n % heads] or np.inf, n // heads))
    names = [f"{window_name(windows[n % heads])}, {n // heads + 1}" for n in order]
    side = max(3.4, 0.14 * len(order))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(values[np.ix_(order, order)], vmin=0, cmap="cividis")
    axis.set_xticks(range(len(order)), names, rotation=90, fontsize=6)
    axis.set_yticks(range(len(order)), names, fontsize=6)
    axis.set_title(f"{model.name}: {view.part} heads by window, block")
    figure.colorbar(image, ax=axis, label="PWCCA", shrink=0.8)
    return figure
