"""Figures of function matching: arms beside the teacher, progress over steps, pictures of predictions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_COLOURS = {"supervised": "#8a9099", "distilled": "#3b78b0", "function_matching": "#c8501e"}
_INK = "#2b2f36"


def arms_figure(result: Mapping[str, Any]) -> Figure:
    """Draw each arm's scores, a dot a seed, and the teacher's as a line.

    Args:
        result: contents of `distill.json`.
    """
    figure = Figure(figsize=(5.2, 3.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    arms = [arm["arm"] for arm in result["arms"]]
    for x, arm in enumerate(arms):
        scores = [100 * row["score"] for row in result["rows"] if row["arm"] == arm]
        axes.scatter([x] * len(scores), scores, color=_COLOURS.get(arm, _INK), s=28, zorder=2)
        axes.hlines(np.mean(scores), x - 0.22, x + 0.22, color=_INK, lw=2, zorder=3)
    teacher = 100 * result["teacher"][result["score_name"]]
    axes.axhline(teacher, color=_INK, ls="--", lw=1)
    axes.annotate(
        "teacher", (0.01, teacher), xycoords=("axes fraction", "data"), va="bottom", fontsize=8
    )
    axes.set_xticks(range(len(arms)), arms)
    axes.set(ylabel=f"{result['score_name']} on validation (%)", xlim=(-0.5, len(arms) - 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def progress_figure(result: Mapping[str, Any]) -> Figure:
    """Draw score and agreement with the teacher over training length, the mean of the seeds.

    Agreement on unlabelled images has a panel of its own where images were kept aside for it.

    Args:
        result: contents of `distill.json`.
    """
    quantities = [(result["score_name"], "score"), ("agreement", "agreement with the teacher")]
    if all("agreement_unlabelled" in point for row in result["rows"] for point in row["curve"]):
        quantities.append(("agreement_unlabelled", "agreement on unlabelled images"))
    figure = Figure(figsize=(4.5 * len(quantities), 3.4), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(quantities))
    for axes, (key, label) in zip(panels, quantities, strict=True):
        for arm in dict.fromkeys(row["arm"] for row in result["rows"]):
            curves = [row["curve"] for row in result["rows"] if row["arm"] == arm]
            steps = [point["steps"] for point in curves[0]]
            # Agreement of a detector is undefined (None) where its teacher finds nothing.
            values = 100 * np.array([[p[key] for p in curve] for curve in curves], dtype=float)
            colour = _COLOURS.get(arm, _INK)
            axes.plot(steps, values.mean(axis=0), color=colour, label=arm, marker="o", ms=3)
            axes.fill_between(
                steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15
            )
        axes.set(xlabel="training steps", ylabel=f"{label} (%)")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].axhline(100 * result["teacher"][result["score_name"]], color=_INK, ls="--", lw=1)
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def predictions_figure(
    images: NDArray[np.uint8], columns: Mapping[str, NDArray[np.integer[Any]]], num_classes: int
) -> Figure:
    """Draw images beside class maps: truth, teacher, students, and where teacher and student disagree.

    Args:
        images: uint8 (B,H,W,3).
        columns: title → class ids (B,H,W), 255 = ignored; booleans are drawn as black on white.
        num_classes: C.
    """
    import matplotlib as mpl

    count, height, width = images.shape[:3]
    figure = Figure(
        figsize=(1.9 * (len(columns) + 1), 1.9 * count * height / width + 0.5),
        layout="constrained",
        facecolor="white",
    )
    grid = figure.subplots(count, len(columns) + 1, squeeze=False)
    palette = mpl.colormaps["tab20"].resampled(max(num_classes, 2))
    for row in range(count):
        grid[row, 0].imshow(images[row])
        for axes, ids in zip(grid[row, 1:], columns.values(), strict=True):
            if ids.dtype == bool:
                axes.imshow(ids[row], cmap="gray_r", vmin=0, vmax=1)
            else:
                shown = np.ma.masked_equal(ids[row], 255)
                axes.imshow(
                    shown, cmap=palette, vmin=-0.5, vmax=num_classes - 0.5, interpolation="nearest"
                )
    for axes, title in zip(grid[0], ["image", *columns], strict=True):
        axes.set_title(title, fontsize=8)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    return figure


def boxes_figure(
    images: NDArray[np.uint8],
    columns: Mapping[str, NDArray[np.floating[Any]]],
    class_names: Sequence[str],
) -> Figure:
    """Draw images with the boxes that truth, teacher and students have in them, a colour a class.

    Args:
        images: uint8 (B,H,W,3).
        columns: title → packed boxes (B,M,6); ignored ones are drawn dotted.
        class_names: of the ids 0 … C − 1, for the legend.
    """
    import matplotlib as mpl
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    count, height, width = images.shape[:3]
    figure = Figure(
        figsize=(2.6 * len(columns), 2.6 * count * height / width + 0.5),
        layout="constrained",
        facecolor="white",
    )
    grid = figure.subplots(count, len(columns), squeeze=False)
    palette = mpl.colormaps["tab10"].resampled(max(len(class_names), 2))
    for row, image in enumerate(images):
        for axes, boxes in zip(grid[row], columns.values(), strict=True):
            axes.imshow(image)
            axes.set(xticks=[], yticks=[])
            for x1, y1, x2, y2, label, ignored in boxes[row][boxes[row][:, 4] >= 0]:
                # A pixel's centre has whole coordinates in imshow, its edges the halves.
                place = (x1 - 0.5, y1 - 0.5)
                style = ":" if ignored else "-"
                colour = palette(int(label))
                axes.add_patch(
                    Rectangle(place, x2 - x1, y2 - y1, fill=False, ec=colour, ls=style, lw=1.2)
                )
    for axes, title in zip(grid[0], columns, strict=True):
        axes.set_title(title, fontsize=8)
    lines = [Line2D([], [], color=palette(k), label=name) for k, name in enumerate(class_names)]
    figure.legend(handles=lines, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


CLASS_SCORES = {"iou": "IoU", "ap_by_class": "AP"}


def class_table(result: Mapping[str, Any]) -> list[tuple[str, list[float | None]]]:
    """Return for each class the teacher's IoU or AP and every arm's mean; empty without classes."""
    score = next((name for name in CLASS_SCORES if name in result["teacher"]), None)
    if score is None:
        return []
    arms: Sequence[str] = [arm["arm"] for arm in result["arms"]]
    table = []
    for name, teacher in result["teacher"][score].items():
        cells: list[float | None] = [teacher]
        for arm in arms:
            values = [r["scores"][score][name] for r in result["rows"] if r["arm"] == arm]
            known = [v for v in values if v is not None]
            cells.append(float(np.mean(known)) if known else None)
        table.append((name, cells))
    return table
