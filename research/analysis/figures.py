"""Figures of the analysis, readable in print and by the colour-blind.

Each is written as PNG and as SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..files import replacing
from .measure import ByWindow, HeadSimilarity, Measured, View

#: Of Okabe and Ito's palette for all kinds of colour vision.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "0.55"
#: Where a spectrogram is masked.
HIDDEN = "#CFE3F1"
#: Dots per inch of the PNG.
DPI = 160
STYLE: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "hear_mwmae"}


def save(figure: Figure, folder: Path, name: str) -> None:
    """``name``.png and ``name``.svg in ``folder``; the same figure gives the same files."""
    with matplotlib.rc_context(STYLE):
        if engine := figure.get_layout_engine():
            engine.execute(figure)
            figure.set_layout_engine("none")  # the two formats need not be laid out again
        for suffix, options in ((".png", {"dpi": DPI}), (".svg", {"metadata": {"Date": None}})):
            with replacing(folder / f"{name}{suffix}") as temporary:
                figure.savefig(temporary, format=suffix[1:], **options)


def window_name(window: int) -> str:
    """The size of a window as figures and tables show it; 0 is global."""
    return str(window) if window else "global"


def window_colours(windows: Sequence[int]) -> dict[int, str]:
    """From dark to light with the size of the window; global heads are black."""
    sizes = sorted({window for window in windows if window})
    shades = colormaps["viridis"](np.linspace(0.1, 0.9, len(sizes)))
    return {0: "black"} | {size: to_hex(shade) for size, shade in zip(sizes, shades, strict=True)}


def heads_over_blocks(models: Sequence[Measured], view: View) -> Figure:
    """Attention distance and normalised entropy of every head over the blocks, a column per model.

    Grey marks (windowed heads) and dotted lines (others) show the distance of uniform attention
    over all visible keys. Grey lines are the means of blocks.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.2 + 1.7 * len(models), 3.9), layout="constrained")
        axes = figure.subplots(2, len(models), squeeze=False, sharey="row")
        shown = sorted({w for model in models for w in model.windows[view.part]}, key=lambda w: w or np.inf)
        colours = window_colours(shown)
        for column, model in enumerate(models):
            axes[0, column].set_title(model.name)
            for axis, measure in zip(axes[:, column], ("distance", "entropy_normalised"), strict=True):
                _dots(axis, model, view, measure, colours)
                axis.xaxis.get_major_locator().set_params(integer=True)
            axes[1, column].set_xlabel(f"{view.part} block")
            axes[0, column].tick_params(labelbottom=False)
        axes[0, 0].set_ylabel("attention distance (patches)")
        axes[1, 0].set_ylabel("entropy / ln(visible keys)")
        axes[0, 0].set_ylim(bottom=0)
        axes[1, 0].set_ylim(0, 1.03)
        if any(shown):
            marks = [axes[0, 0].plot([], [], "o", color=colours[w], label=window_name(w), ms=4)[0] for w in shown]
            marks += axes[0, 0].plot([], [], "_", color=GREY, label="uniform", ms=7)
            figure.legend(handles=marks, title="window (tokens)", loc="outside right center", frameon=False)
    return figure


def _dots(axis: Axes, model: Measured, view: View, measure: str, colours: dict[int, str]) -> None:
    windows, values = model.windows[view.part], model.heads(view, measure)
    blocks, heads = values.shape
    colours = colours if any(windows) else {0: BLUE}
    places = np.arange(1, blocks + 1)
    # Beside one another, so that none hides another.
    for head, shift in enumerate(np.linspace(-0.3, 0.3, heads) if heads > 1 else [0.0]):
        if measure == "distance" and any(windows):
            uniform = model.heads(view, "distance_uniform")[:, head]
            axis.plot(places + shift, uniform, "_", color=GREY, ms=5, zorder=1)
        axis.plot(places + shift, values[:, head], "o", color=colours[windows[head]], ms=3, mec="none", zorder=2)
    if not any(windows):
        axis.plot(places, values.mean(axis=1), color=GREY, lw=0.8, zorder=0)
        if measure == "distance":
            axis.axhline(model.heads(view, "distance_uniform").mean(), color=GREY, ls=":", lw=1, zorder=0)
    axis.set_xlim(0.4, blocks + 0.6)


def similarity_matrix(model: Measured, view: View) -> Figure:
    """Symmetric PWCCA of all pairs of heads: ordered by block, and by window if the model has
    windows.
    """
    windows, found = model.windows[view.part], model.similarity[view]
    heads = len(windows)
    blocks = len(found.matrices.pwcca) // heads
    by_block = [(block, head) for block in range(blocks) for head in range(heads)]
    orders = {"by block": by_block}
    if any(windows):
        orders["by window"] = sorted(by_block, key=lambda place: (windows[place[1]] or np.inf, place[1], place[0]))
    with matplotlib.rc_context(STYLE | {"axes.spines.top": True, "axes.spines.right": True}):
        side = max(3.4, 0.14 * len(by_block) * any(windows))  # room for a label per head
        figure = Figure(figsize=(side * len(orders) + 0.8, side + 0.3), layout="constrained")
        axes = figure.subplots(1, len(orders), squeeze=False)[0]
        for axis, (title, order) in zip(axes, orders.items(), strict=True):
            rows = [block * heads + head for block, head in order]
            values = found.matrices.pwcca[np.ix_(rows, rows)]
            np.fill_diagonal(values, np.nan)  # a head and itself
            image = axis.imshow(values, vmin=0, vmax=np.nanmax(values), cmap="cividis", interpolation="nearest")
            axis.set_facecolor("white")
            size = 7 if len(order) <= 20 or not any(windows) else 6
            ticks = range(len(order)) if any(windows) else np.arange(blocks) * heads + (heads - 1) / 2
            labels = [window_name(windows[head]) for _, head in order] if any(windows) else list(map(str, range(1, blocks + 1)))
            axis.set_xticks(ticks, labels, rotation=90 if any(windows) else 0, fontsize=size)
            axis.set_yticks(ticks, labels, fontsize=size)
            groups = [block if title == "by block" else windows[head] for block, head in order]
            for edge in (i - 0.5 for i in range(1, len(order)) if groups[i] != groups[i - 1]):
                axis.axhline(edge, color="white", lw=0.8)
                axis.axvline(edge, color="white", lw=0.8)
            axis.set_title(f"{model.name}: {view.part} heads, {title}")
            axis.set_xlabel("window (tokens)" if any(windows) else "block")
            axis.set_ylabel(axis.get_xlabel())
        figure.colorbar(image, ax=axes, label="PWCCA", shrink=0.8)
    return figure


def window_effects(models: Sequence[Measured], view: View) -> Figure:
    """PWCCA of pairs of heads of different blocks: equal against unequal windows, a column per
    model that has windows.
    """
    with matplotlib.rc_context(STYLE):
        models = [model for model in models if model.similarity[view].by_window]
        figure = Figure(figsize=(0.8 + 1.9 * len(models), 3.1), layout="constrained")
        axes = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
        rng = np.random.default_rng(0)
        for axis, model in zip(axes, models, strict=True):
            found, windows = model.similarity[view], model.windows[view.part]
            equal, unequal = _pairs(found, windows)
            for place, (values, colour) in enumerate(((equal, BLUE), (unequal, ORANGE))):
                axis.plot(place + rng.uniform(-0.18, 0.18, len(values)), values, "o", color=colour, ms=3, mec="none", alpha=0.6)
                axis.plot([place - 0.32, place + 0.32], [values.mean()] * 2, color="black", lw=1.5)
            axis.axhline(found.null, color=GREY, ls=":", lw=1)
            axis.set_xticks([0, 1], ["equal", "unequal"])
            axis.set_xlim(-0.6, 1.6)
            axis.set_ylim(0, 1)
            axis.set_title(f"{model.name}\n{_effect(found.by_window)}", fontsize=7.5)
        axes[0].set_ylabel("PWCCA across blocks")
        figure.supxlabel("windows of the two heads (dotted: independent noise)", fontsize=8)
    return figure


def _pairs(found: HeadSimilarity, windows: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """PWCCA of pairs in different blocks, of equal and of unequal windows."""
    heads = len(windows)
    number = np.arange(len(found.matrices.pwcca))
    above = number[:, None] // heads < number // heads
    every = np.array(windows)[number % heads]
    same = every[:, None] == every
    return found.matrices.pwcca[above & same], found.matrices.pwcca[above & ~same]


def _effect(found: ByWindow | None) -> str:
    """Equal minus unequal windows, its interval, and p."""
    if not found:
        return ""
    difference = found.difference
    return f"{difference.value:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}], p = {found.effect.p:.1g}"


def attention_over_spectrogram(
    spectrogram: np.ndarray, grid: tuple[int, int], query: int, maps: Sequence[tuple[str, np.ndarray]], seconds: float
) -> Figure:
    """Attention of one query, a panel per head over the spectrogram.

    Args:
        spectrogram: (frames, mels); NaN in masked places.
        grid: patches in (time, frequency).
        query: number of the query's patch.
        maps: title and (tokens,) weights of that query, of every head.
        seconds: length of the spectrogram.
    """
    mels, (steps, bands), columns = spectrogram.shape[1], grid, 2
    width, height = seconds / steps, mels / bands
    with matplotlib.rc_context(STYLE):
        rows = -(-len(maps) // columns)
        figure = Figure(figsize=(7.2, 0.5 + 1.25 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        extent = (0, seconds, 0, mels)
        for axis, (title, weights) in zip(axes.flat, maps, strict=False):
            axis.set_facecolor(HIDDEN)
            axis.imshow(spectrogram.T, origin="lower", aspect="auto", extent=extent, cmap="gray_r", interpolation="nearest")
            strength = (weights / weights.max()).reshape(grid).T
            colour = np.broadcast_to(to_rgb(ORANGE), (*strength.shape, 3))
            axis.imshow(colour, alpha=0.7 * strength, origin="lower", aspect="auto", extent=extent, interpolation="nearest")
            corner = (query // bands * width, query % bands * height)
            axis.add_patch(Rectangle(corner, width, height, fill=False, ec=BLUE, lw=1.6))
            axis.set_title(title, fontsize=7.5)
            axis.set_xticks(np.linspace(0, seconds, 5))
            axis.set_yticks([0, mels // 2, mels])
        for axis in axes[:, 0]:
            axis.set_ylabel("mel band")
        for axis in axes[-1]:
            axis.set_xlabel("seconds")
        for axis in list(axes.flat)[len(maps) :]:
            axis.set_visible(False)
    return figure


def reconstruction_panels(panels: Sequence[tuple[str, np.ndarray]], seconds: float) -> Figure:
    """Named spectrograms (frames, mels) in natural-log units below one another; the last is an
    error, with another colour map.
    """
    with matplotlib.rc_context(STYLE | {"axes.spines.top": True, "axes.spines.right": True}):
        figure = Figure(figsize=(7.2, 5.6), layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True)
        target = panels[-2][1]
        for axis, (title, panel) in zip(axes, panels, strict=True):
            is_error = panel is panels[-1][1]
            low, high = target.min(), target.max()
            if is_error:  # a few bins that are far off should not pale the rest
                high = np.nanpercentile(np.abs(panel), 99) or 1.0
                low = -high
            image = axis.imshow(
                panel.T, origin="lower", aspect="auto", vmin=low, vmax=high, extent=(0, seconds, 0, panel.shape[1]),
                cmap="PuOr_r" if is_error else "viridis", interpolation="nearest",
            )  # fmt: skip
            axis.set_facecolor("0.85")
            axis.set_title(title, loc="left")
            axis.set_ylabel("mel band")
            label, extend = ("difference", "both") if is_error else ("ln(power)", "neither")
            figure.colorbar(image, ax=axis, label=label, extend=extend, pad=0.01)
        axes[-1].set_xlabel("seconds")
    return figure
