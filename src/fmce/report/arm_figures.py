"""Figures of FMCE-Net++'s experiments: accuracy over epochs, and accuracy by RAF, with the spread over seeds."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_INK, _ACCENT, _QUIET = "#2b2f36", "#c8501e", "#8a9099"


def accuracy_curves_figure(
    curves: Mapping[str, NDArray[np.floating]], *, title: str = "", label: str = "accuracy (%)"
) -> Figure:
    """Draw an accuracy over the epochs, one line an arm: mean over seeds, band from lowest to highest.

    Args:
        curves: arm → (seeds, epochs) fractions. The first is the reference and drawn in black.
        title: above the axes.
        label: of the vertical axis.

    Raises:
        ValueError: there is no curve, or one is not of seeds by epochs.
    """
    if not curves:
        raise ValueError("expected at least one arm's curves to draw, got none")
    figure = Figure(figsize=(6.4, 3.8), layout="constrained", facecolor="white")
    axes = figure.subplots()
    for number, (arm, values) in enumerate(curves.items()):
        if values.ndim != 2 or not values.size:
            raise ValueError(f"expected seeds by epochs for {arm!r}, got shape {values.shape}")
        epochs = np.arange(1, values.shape[1] + 1)
        colour = _INK if number == 0 else f"C{number - 1}"
        percent = 100 * values
        axes.plot(epochs, percent.mean(axis=0), color=colour, lw=1.6, label=arm, zorder=3)
        axes.fill_between(
            epochs, percent.min(axis=0), percent.max(axis=0), color=colour, alpha=0.15, lw=0
        )
    axes.set(xlabel="epoch", ylabel=label, title=title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure


def raf_bars_figure(arms: Sequence[Mapping[str, float | str | None]], *, title: str = "") -> Figure:
    """Draw test accuracy by arm as bars with one standard deviation; the axis does not start at zero.

    Args:
        arms: each with "arm" (its name), "mean" and "sd" (fractions; None without spread). The first
            is the reference, whose mean is drawn as a line across all.
        title: above the axes.

    Raises:
        ValueError: there are no arms.
    """
    if not arms:
        raise ValueError("expected at least one arm to draw, got none")
    means = np.array([100 * float(arm["mean"] or 0) for arm in arms])
    spreads = np.array([100 * float(arm["sd"] or 0) for arm in arms])
    figure = Figure(
        figsize=(max(4.5, 0.95 * len(arms)), 3.8), layout="constrained", facecolor="white"
    )
    axes = figure.subplots()
    colours = [_ACCENT, *[_QUIET] * (len(arms) - 1)]
    axes.bar(
        range(len(arms)), means, yerr=spreads, color=colours, ecolor=_INK, capsize=3, width=0.65
    )
    axes.axhline(means[0], color=_ACCENT, lw=1, ls=(0, (4, 3)))
    low, high = float((means - spreads).min()), float((means + spreads).max())
    margin = max(0.25 * (high - low), 0.05)
    axes.set_ylim(max(0.0, low - 2 * margin), min(100.0, high + margin))
    axes.set_xticks(
        range(len(arms)), [str(arm["arm"]) for arm in arms], fontsize=8, rotation=20, ha="right"
    )
    axes.set(ylabel="test accuracy (%)", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
