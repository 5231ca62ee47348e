"""Figures with pictures: confusion of phases, Grad-CAM over the phases, predictions of teacher and students."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from fmce.report.figures import INK, panel, picture_grid, styled


@styled
def confusion_figure(counts: NDArray[np.integer[Any]], *, title: str = "") -> Figure:
    """Draw a confusion matrix of phases, shaded by fraction of the true phase.

    Args:
        counts: (K, K), row = true phase − 1, column = predicted phase − 1.
        title: Above the matrix.
    """
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"expected a square matrix of counts, got shape {counts.shape}")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = panel(5.2, 4.6)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            ink = "white" if shares[row, column] > 0.6 else INK
            axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=ink)
    ticks = range(len(counts))
    names = [str(k + 1) for k in ticks]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted phase", ylabel="true phase", title=title)
    figure.colorbar(image, ax=axes, label="fraction of the true phase", shrink=0.85)
    return figure


@styled
def grad_cam_figure(
    images: NDArray[np.uint8],
    cams: NDArray[np.floating[Any]],
    epochs: Sequence[int | str],
    classes: Sequence[str],
) -> Figure:
    """Draw class activation maps over the phases of a training, or over other models, one image per row.

    The colour scale of a row is common to all its phases, so that colours compare across them. Maps
    are shown at their own resolution over the image's area.

    Args:
        images: (B,C,H,W) uint8, C = 1 or 3.
        cams: (K,B,h,w) raw maps, phase by phase; negative values only in signed maps.
        epochs: The K marker epochs; texts stand above their columns as they are.
        classes: Name of each image's class.

    Raises:
        ValueError: If the shapes do not agree.
    """
    phases, count = cams.shape[:2]
    if len(images) != count or len(classes) != count or len(epochs) != phases:
        raise ValueError(
            f"expected {count} images and class names and {phases} epochs for maps {cams.shape}, "
            f"got {len(images)}, {len(classes)} and {len(epochs)}"
        )
    columns = [e if isinstance(e, str) else f"{k}\nepoch {e}" for k, e in enumerate(epochs, 1)]
    figure, grid = picture_grid(count, ["image", *columns], 1.05, 1.12)
    height, width = images.shape[-2:]
    area = (-0.5, width - 0.5, height - 0.5, -0.5)
    for row, (image, name) in enumerate(zip(images, classes, strict=True)):
        picture = np.broadcast_to(image, (3, height, width)).transpose(1, 2, 0)
        grid[row, 0].imshow(picture, extent=area)
        grid[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")
        high = max(float(np.abs(cams[:, row]).max()), 1e-12)
        low = -high if cams[:, row].min() < 0 else 0.0
        for axes, cam in zip(grid[row, 1:], cams[:, row], strict=True):
            axes.imshow(picture.mean(axis=2), cmap="gray", extent=area)
            axes.imshow(cam, cmap="jet", vmin=low, vmax=high, alpha=0.55, extent=area)
    return figure


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
