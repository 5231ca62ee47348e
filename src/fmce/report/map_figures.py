"""Figures of feature maps and of compared trainings: confusion matrix, arms over seeds, Grad-CAM over phases."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_INK, _ACCENT, _QUIET = "#2b2f36", "#c8501e", "#8a9099"


def confusion_figure(counts: NDArray[np.integer[Any]], *, title: str = "") -> Figure:
    """Draw a confusion matrix of phases, shaded by share of the true phase.

    Args:
        counts: (K, K), row = true phase − 1, column = predicted phase − 1.
        title: above the matrix.

    Raises:
        ValueError: the matrix is not square.
    """
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"expected a square matrix of counts, got shape {counts.shape}")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(5.2, 4.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            ink = "white" if shares[row, column] > 0.6 else _INK
            axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=ink)
    ticks = range(len(counts))
    axes.set_xticks(ticks, [str(k + 1) for k in ticks])
    axes.set_yticks(ticks, [str(k + 1) for k in ticks])
    axes.set(xlabel="predicted phase", ylabel="true phase", title=title)
    figure.colorbar(image, ax=axes, label="share of the true phase", shrink=0.85)
    return figure


def comparison_figure(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """Draw test accuracy by arm: one dot a seed, seeds joined to show pairs, a bar at the mean.

    Args:
        rows: each with "arm", "seed" and "test_accuracy" (a fraction).
        title: above the axes.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("expected at least one training to draw, got none")
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    figure = Figure(
        figsize=(max(4.5, 1.5 * len(arms)), 3.6), layout="constrained", facecolor="white"
    )
    axes = figure.subplots()
    for seed in dict.fromkeys(row["seed"] for row in rows):
        mine = [row for row in rows if row["seed"] == seed]
        xs = [arms.index(row["arm"]) for row in mine]
        ys = [100 * row["test_accuracy"] for row in mine]
        axes.plot(xs, ys, color=_QUIET, lw=0.8, zorder=1)
        axes.scatter(xs, ys, s=26, zorder=2, label=f"seed {seed}")
    for x, arm in enumerate(arms):
        mean = np.mean([100 * row["test_accuracy"] for row in rows if row["arm"] == arm])
        axes.hlines(mean, x - 0.22, x + 0.22, color=_ACCENT, lw=2.2, zorder=3)
    axes.set_xticks(range(len(arms)), arms)
    axes.set(ylabel="test accuracy (%)", title=title, xlim=(-0.5, len(arms) - 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def grad_cam_figure(
    images: NDArray[np.uint8],
    cams: NDArray[np.floating[Any]],
    epochs: Sequence[int | str],
    classes: Sequence[str],
) -> Figure:
    """Draw class activation maps over the phases of a training, or over other models, one image a row.

    The colour scale of a row is common to all its phases, so that colours compare across them. Maps
    are shown at their own resolution over the image's area.

    Args:
        images: (B,C,H,W) uint8, C = 1 or 3.
        cams: (K,B,h,w) raw maps, phase by phase; negative values only in signed maps.
        epochs: the K marker epochs; texts stand above their columns as they are.
        classes: name of each image's class.

    Raises:
        ValueError: the shapes do not agree.
    """
    phases, count = cams.shape[:2]
    if len(images) != count or len(classes) != count or len(epochs) != phases:
        raise ValueError(
            f"expected {count} images and class names and {phases} epochs for maps {cams.shape}, "
            f"got {len(images)}, {len(classes)} and {len(epochs)}"
        )
    figure = Figure(
        figsize=(1.05 * (phases + 1), 1.12 * count + 0.4), layout="constrained", facecolor="white"
    )
    grid = figure.subplots(count, phases + 1, squeeze=False)
    height, width = images.shape[-2:]
    area = (-0.5, width - 0.5, height - 0.5, -0.5)
    for row, (image, name) in enumerate(zip(images, classes, strict=True)):
        picture = np.broadcast_to(image, (3, height, width)).transpose(1, 2, 0)
        grid[row, 0].imshow(picture, extent=area)
        grid[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        high = max(float(np.abs(cams[:, row]).max()), 1e-12)
        low = -high if cams[:, row].min() < 0 else 0.0
        for phase in range(phases):
            axes = grid[row, phase + 1]
            axes.imshow(picture.mean(axis=2), cmap="gray", extent=area)
            axes.imshow(cams[phase, row], cmap="jet", vmin=low, vmax=high, alpha=0.55, extent=area)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    grid[0, 0].set_title("image", fontsize=8)
    for phase, epoch in enumerate(epochs):
        title = epoch if isinstance(epoch, str) else f"{phase + 1}\nepoch {epoch}"
        grid[0, phase + 1].set_title(title, fontsize=8)
    return figure
