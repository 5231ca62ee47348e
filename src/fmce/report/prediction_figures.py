"""Figures of what teacher and students of function matching predict."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from fmce.report.figures import picture_grid, styled


@styled
def predictions_figure(
    images: NDArray[np.uint8], columns: Mapping[str, NDArray[np.integer[Any]]], num_classes: int
) -> Figure:
    """Draw images uint8 (B,H,W,3) beside class maps: truth, teacher, students, and where they disagree.

    Columns are title → class ids (B,H,W), 255 = ignored; booleans are drawn as black on white.
    """
    count, height, width = images.shape[:3]
    figure, grid = picture_grid(count, ["image", *columns], 1.9, 1.9 * height / width)
    palette = mpl.colormaps["tab20"].resampled(max(num_classes, 2))
    for row in range(count):
        grid[row, 0].imshow(images[row])
        for axes, ids in zip(grid[row, 1:], columns.values(), strict=True):
            if ids.dtype == bool:
                axes.imshow(ids[row], cmap="gray_r", vmin=0, vmax=1)
            else:
                shown = np.ma.masked_equal(ids[row], 255)
                limits = {"vmin": -0.5, "vmax": num_classes - 0.5}
                axes.imshow(shown, cmap=palette, **limits, interpolation="nearest")
    return figure


@styled
def boxes_figure(
    images: NDArray[np.uint8],
    columns: Mapping[str, NDArray[np.floating[Any]]],
    class_names: Sequence[str],
) -> Figure:
    """Draw images uint8 (B,H,W,3) with the boxes that truth, teacher and students have in them.

    Columns are title → packed boxes (B,M,6), one colour per class; ignored ones are drawn dotted.
    """
    count, height, width = images.shape[:3]
    figure, grid = picture_grid(count, list(columns), 2.6, 2.6 * height / width)
    palette = mpl.colormaps["tab10"].resampled(max(len(class_names), 2))
    for row, image in enumerate(images):
        for axes, boxes in zip(grid[row], columns.values(), strict=True):
            axes.imshow(image)
            for x1, y1, x2, y2, label, ignored in boxes[row][boxes[row][:, 4] >= 0]:
                # imshow puts pixel centres at whole coordinates and their edges at the halves.
                corner, style = (x1 - 0.5, y1 - 0.5), ":" if ignored else "-"
                look: dict[str, Any] = {"fill": False, "ec": palette(int(label)), "ls": style}
                axes.add_patch(Rectangle(corner, x2 - x1, y2 - y1, lw=1.2, **look))
    lines = [Line2D([], [], color=palette(k), label=name) for k, name in enumerate(class_names)]
    figure.legend(handles=lines, loc="outside lower center", ncols=5)
    return figure
