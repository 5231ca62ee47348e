"""What all figures share: one look, panels, grids of pictures, and the way to a file.

A figure function takes data and returns a matplotlib Figure. It computes no result, shows no window and
leaves matplotlib's settings as they are.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from fmce.files import replacing

INK, ACCENT, QUIET, LEVEL = "#2b2f36", "#c8501e", "#8a9099", "#d5d9df"
_TICKS = {"color": QUIET, "labelcolor": INK, "labelsize": 8.5}
_LOOK: Any = {
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    **{f"{axis}tick.{name}": value for axis in "xy" for name, value in _TICKS.items()},
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": INK,
}
_FORMATS = {".png": "png", ".svg": "svg"}
_PNG_DPI = 150

# Decorates every function that draws.
styled = mpl.rc_context(_LOOK)


def panel(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of that size in inches and its only axes."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots()


def picture_grid(
    rows: int, titles: Sequence[str], width: float, height: float
) -> tuple[Figure, NDArray[Any]]:
    """Return a figure and its axes (rows, columns) for pictures of that size in inches, without frames."""
    figure = Figure(figsize=(width * len(titles), height * rows + 0.5))
    grid = figure.subplots(rows, len(titles), squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=8)
    return figure, grid


def draw_spread(
    axes: Axes, x: ArrayLike, values: NDArray[np.floating], colour: str, label: str
) -> None:
    """Draw curves (number, points) as a line at their mean and a band from lowest to highest."""
    marker = "o" if values.shape[1] < 20 else ""
    axes.plot(x, values.mean(axis=0), color=colour, lw=1.6, label=label, marker=marker, ms=3)
    axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a PNG or SVG file, atomically.

    SVG files carry no date and no random ids, so that they change only where the picture does.

    Raises:
        ValueError: If the suffix is another one, or the folder does not exist.
        OSError: If the file cannot be written there.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in _FORMATS:
        raise ValueError(f"figures are written as .png or .svg; got {target.name!r}")
    if not target.parent.is_dir():
        raise ValueError(f"folder {target.parent} does not exist: create it to write {target.name}")
    metadata = {"Date": None} if suffix == ".svg" else None
    with replacing(target) as beside, mpl.rc_context({"svg.hashsalt": "fmce"}):
        figure.savefig(beside, format=_FORMATS[suffix], dpi=_PNG_DPI, metadata=metadata)
