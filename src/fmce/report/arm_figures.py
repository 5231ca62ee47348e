"""Figures of compared trainings: scores by arm and over time, with their spread over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fmce.report.figures import ACCENT, INK, QUIET, draw_spread, panel, styled

ARM_COLOURS = {"supervised": QUIET, "distilled": "#3b78b0", "function_matching": ACCENT}


@styled
def comparison_figure(
    rows: Sequence[Mapping[str, Any]],
    score: str = "test_accuracy",
    *,
    label: str = "test accuracy (%)",
    title: str = "",
    teacher: float | None = None,
) -> Figure:
    """Draw a score by arm: one dot per seed, seeds joined to show pairs, a bar at the mean.

    Args:
        rows: Each with "arm", "seed" and the score (a fraction).
        score: Its name in the rows.
        label: Of the vertical axis.
        title: Above the axes.
        teacher: A teacher's score, drawn as a line.
    """
    if not rows:
        raise ValueError("expected at least one training to draw, got none")
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    figure, axes = panel(max(4.5, 1.5 * len(arms)), 3.6)
    for seed in dict.fromkeys(row["seed"] for row in rows):
        own = [row for row in rows if row["seed"] == seed]
        xs = [arms.index(row["arm"]) for row in own]
        ys = [100 * row[score] for row in own]
        axes.plot(xs, ys, color=QUIET, lw=0.8, zorder=1)
        axes.scatter(xs, ys, s=26, zorder=2, label=f"seed {seed}")
    for x, arm in enumerate(arms):
        mean = np.mean([100 * row[score] for row in rows if row["arm"] == arm])
        axes.hlines(float(mean), x - 0.22, x + 0.22, color=ACCENT, lw=2.2, zorder=3)
    if teacher is not None:
        axes.axhline(100 * teacher, color=INK, ls="--", lw=1, label="teacher")
    axes.set_xticks(range(len(arms)), arms)
    axes.set(ylabel=label, title=title, xlim=(-0.5, len(arms) - 0.5))
    figure.legend(loc="outside right upper")
    return figure


@styled
def progress_figure(result: Mapping[str, Any]) -> Figure:
    """Draw score and agreement with the teacher over training length, with the spread over seeds.

    Agreement on unlabelled images has its own panel where images were held out for it.
    """
    rows = result["rows"]
    quantities = {result["score_name"]: "score", "agreement": "agreement with the teacher"}
    if all("agreement_held_out" in point for row in rows for point in row["curve"]):
        quantities["agreement_held_out"] = "agreement on unlabelled images"
    figure = Figure(figsize=(4.5 * len(quantities), 3.4))
    panels = figure.subplots(1, len(quantities))
    for axes, (key, label) in zip(panels, quantities.items(), strict=True):
        for arm in dict.fromkeys(row["arm"] for row in rows):
            curves = [row["curve"] for row in rows if row["arm"] == arm]
            steps = [point["steps"] for point in curves[0]]
            # Agreement of a detector is undefined (None) where its teacher finds nothing.
            values = 100 * np.array([[p[key] for p in curve] for curve in curves], dtype=float)
            draw_spread(axes, steps, values, ARM_COLOURS.get(arm, INK), arm)
        axes.set(xlabel="training steps", ylabel=f"{label} (%)")
    panels[0].axhline(100 * result["teacher"][result["score_name"]], color=INK, ls="--", lw=1)
    panels[0].legend()
    return figure
