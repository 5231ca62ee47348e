"""The loss figure of FMCE (Fig. 3), with the markers of a step curve beside the run's own."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from fmce.convergence.markers import LOG_FLOOR
from fmce.convergence.phases import Phases
from fmce.report.figures import ACCENT, INK, LEVEL, QUIET, styled

# Colour-blind readers can distinguish these, and printed in grey they differ in lightness.
_RAW, _SMOOTHED = "#9fb3c8", "#1f4e79"
_WHITE_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 2.0}
_SMOOTHERS = {
    "ema": "recursive average",
    "debiased_ema": "debiased average",
    "two_tap": "two-tap average",
    "none": "no smoothing",
}
_STEPS: dict[str, Any] = {"steps": [1, 2, 5, 10]}


@styled
def loss_phases_figure(losses: ArrayLike, phases: Phases) -> Figure:
    """Draw a loss curve, its CQI and its convergence phases (FMCE, Fig. 3).

    Panels: (a) raw and smoothed loss, (b) CQI with its threshold, (c) the markers on the smoothed
    loss, (d) the same on its logarithm, cut into equal falls. A strip below, which the paper does
    not have, sets the markers beside those that the smoother yields by itself and those found with
    another or no smoother.

    Args:
        losses: L_1 … L_M that ``phases`` were found on, in nats.
        phases: What ``find_phases`` returned for them.

    Raises:
        ValueError: If ``losses`` does not have one value per epoch of ``phases``.

    >>> from fmce.convergence.phases import PhaseConfig, find_phases
    >>> losses = [2.3] + [0.001] * 59
    >>> figure = loss_phases_figure(losses, find_phases(losses, PhaseConfig(threshold=2e-3)))
    >>> len(figure.axes)
    5
    """
    raw = np.asarray(losses, dtype=np.float64)
    if raw.shape != (phases.num_epochs,):
        raise ValueError(
            f"losses must have one value for each of the {phases.num_epochs} epochs of phases; "
            f"got shape {raw.shape}: pass the losses that the phases were found on"
        )
    figure = Figure(figsize=(10, 8.6))
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    # Subfigures, so that the strip's long names do not push the panels aside.
    (panels,), (strip,) = figure.subfigures(2, 1, squeeze=False, height_ratios=[2, 0.5])
    (top_left, top_right), (bottom_left, bottom_right) = panels.subplots(2, 2)
    _draw_losses(top_left, raw, phases)
    _draw_cqi(top_right, phases)
    _draw_markers(bottom_left, phases)
    _draw_log_markers(bottom_right, phases)
    _draw_marker_rows(strip.subplots(), phases)
    return figure


@styled
def loss_figure(losses: ArrayLike) -> Figure:
    """Draw a loss curve that has no phases.

    Args:
        losses: L_1 … L_M in the curve's unit, of any sign.

    Returns:
        A figure of 7 × 4 inches, for ``save_figure``.

    >>> loss_figure([2.0, 1.0]).axes[0].get_title(loc="left")
    'Training loss, without phases'
    """
    raw = np.asarray(losses, dtype=np.float64)
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    axes.plot(range(1, len(raw) + 1), raw, color=_SMOOTHED, lw=1.7)
    axes.set_title("Training loss, without phases", loc="left")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, **_STEPS))
    return figure


def _draw_losses(axes: Axes, raw: NDArray[np.float64], phases: Phases) -> None:
    _dress(axes, phases, "a", "Training loss", "loss (nats)")
    axes.plot(_epochs(phases), raw, color=_RAW, lw=1.1, label="raw")
    _draw_line(axes, phases, phases.smoothed, _SMOOTHERS[phases.config.smoothing])
    _finish(axes, phases, label=True)
    _zoom_on_convergence(axes, raw, phases)


def _draw_cqi(axes: Axes, phases: Phases) -> None:
    indicator = np.array(phases.cqi)
    # A logarithmic axis has no place for the exact zeros of a flat curve; the line ends there.
    positive = np.where(indicator > 0, indicator, np.nan)
    _dress(axes, phases, "b", "Convergence quantification indicator", "CQI (nats per epoch)")
    axes.set_yscale("log")
    _draw_line(axes, phases, positive, f"CQI, mean of {phases.config.window} changes")
    threshold = f"threshold µ = {phases.threshold:.2g}"
    axes.axhline(phases.threshold, color=ACCENT, lw=1.1, ls=(0, (5, 3)), label=threshold)
    # Rounding dust far below the threshold would squeeze the part that matters.
    axes.set_ylim(bottom=max(np.nanmin(positive) / 1.5, phases.threshold / 100))
    _finish(axes, phases)


def _draw_markers(axes: Axes, phases: Phases) -> None:
    _dress(axes, phases, "c", "Epoch markers on the smoothed loss", "smoothed loss (nats)")
    _draw_line(axes, phases, phases.smoothed)
    _dot_markers(axes, phases, np.array(phases.smoothed))
    _finish(axes, phases)


def _draw_log_markers(axes: Axes, phases: Phases) -> None:
    smoothed = np.array(phases.smoothed)
    logs = np.log(np.maximum(smoothed, LOG_FLOOR * smoothed.max()))
    title = "The same on the log loss, cut into equal falls"
    _dress(axes, phases, "d", title, "ln of smoothed loss")
    start, end = logs[phases.start_epoch - 1], logs[phases.convergence_epoch - 1]
    for k, level in enumerate(np.linspace(start, end, len(phases.markers) + 1)):
        axes.axhline(level, color=LEVEL, lw=0.9, zorder=0, label=None if k else "equal falls")
    _draw_line(axes, phases, logs)
    _dot_markers(axes, phases, logs)
    _finish(axes, phases)


def _draw_marker_rows(axes: Axes, phases: Phases) -> None:
    rows = {
        "this run": phases.markers,
        "step curve, same smoother": phases.step_curve_markers,
        "this run, debiased": phases.debiased_markers,
        "this run, unsmoothed": phases.unsmoothed_markers,
    }
    verdict = "unknown, a step curve has no phases here"
    if phases.smoothing_distance is not None:
        verdict = f"{phases.smoothing_distance:.1f} epochs apart on average, "
        verdict += "smoothing driven" if phases.smoothing_driven else "not smoothing driven"
    _dress(axes, phases, "e", f"Markers beside the smoother's own: {verdict}", "", pad=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for row, (name, markers) in enumerate(rows.items()):
        axes.axhline(row, color=LEVEL, lw=0.8, zorder=0)
        colour = _SMOOTHED if name == "this run" else QUIET
        if markers is None:
            note = "no phases under these settings"
            axes.text(1, row, note, color=QUIET, fontsize=8, va="center", bbox=_WHITE_BOX)
        else:
            axes.plot(markers, [row] * len(markers), "|", color=colour, ms=13, mew=2)


def _dress(
    axes: Axes, phases: Phases, letter: str, title: str, y_label: str, pad: float = 22
) -> None:
    """Give a panel its titles and scales; ``pad`` leaves room for the legend."""
    axes.set_title(f"({letter})  {title}", loc="left", pad=pad)
    margin = 0.02 * phases.num_epochs
    left = 1 - min(margin, 0.9)  # there is no epoch 0
    axes.set(xlabel="epoch", ylabel=y_label, xlim=(left, phases.num_epochs + margin))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, **_STEPS))


def _draw_line(
    axes: Axes, phases: Phases, values: Sequence[float] | NDArray[np.float64], label: str = ""
) -> None:
    axes.plot(_epochs(phases), values, color=_SMOOTHED, lw=1.7, label=label or None)


def _finish(axes: Axes, phases: Phases, *, label: bool = False) -> None:
    """Mark the convergence epoch and add the legend."""
    epoch = phases.convergence_epoch
    text = f"converged, epoch {epoch}" if phases.converged else f"last epoch {epoch}, not converged"
    axes.axvline(epoch, color=ACCENT, lw=1.1, ls=":", label=text if label else None, zorder=1)
    # In the gap between title and axes, where no curve of any shape can be.
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    axes.legend(**place, ncols=3, handlelength=1.6, columnspacing=1.4)


def _dot_markers(axes: Axes, phases: Phases, values: NDArray[np.float64]) -> None:
    epochs = np.array(phases.markers)
    heights = values[epochs - 1]
    start = phases.start_epoch
    dot: dict[str, Any] = {"marker": "o", "ls": "none", "ms": 5, "zorder": 3, "clip_on": False}
    axes.plot(start, values[start - 1], **dot, mfc="white", mec=ACCENT, label="largest raw loss")
    axes.plot(epochs, heights, **dot, color=ACCENT, mec="white", mew=0.8, label="end of phase k")
    every = math.ceil(len(epochs) / 20)  # more numbers than that would touch
    beside: dict[str, Any] = {"xytext": (4, 4), "textcoords": "offset points"}
    for phase in range(len(epochs), 0, -every):
        place = (epochs[phase - 1], heights[phase - 1])
        axes.annotate(str(phase), place, **beside, fontsize=8, color=INK)


def _zoom_on_convergence(axes: Axes, raw: NDArray[np.float64], phases: Phases) -> None:
    """Show the fluctuations around E_K in an inset, where the panel has free room for it."""
    reach = max(5, phases.num_epochs // 8)
    first = max(1, phases.convergence_epoch - reach)
    last = min(phases.num_epochs, phases.convergence_epoch + reach)
    left, bottom, width, height = 0.42, 0.42, 0.55, 0.5
    low, high = axes.get_ylim()
    from_epoch, to_epoch = axes.get_xlim()
    begin = math.floor(from_epoch + (left - 0.08) * (to_epoch - from_epoch))
    covered = np.maximum(raw, phases.smoothed)[max(0, begin - 1) :]
    if covered.max() > low + (bottom - 0.14) * (high - low):
        return
    inset = axes.inset_axes((left, bottom, width, height))
    around = slice(first - 1, last)
    inset.plot(_epochs(phases)[around], raw[around], color=_RAW, lw=1.1)
    inset.plot(_epochs(phases)[around], phases.smoothed[around], color=_SMOOTHED, lw=1.7)
    inset.axvline(phases.convergence_epoch, color=ACCENT, lw=1.1, ls=":")
    inset.set_title("around convergence", fontsize=8, pad=4, bbox=_WHITE_BOX)
    inset.tick_params(labelsize=7.5)
    inset.spines[:].set(visible=True, color=LEVEL)
    inset.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, **_STEPS))
    inset.yaxis.set_major_locator(MaxNLocator(nbins=4, **_STEPS))
    axes.indicate_inset_zoom(inset, edgecolor=QUIET, alpha=0.6)


def _epochs(phases: Phases) -> Sequence[int]:
    return range(1, phases.num_epochs + 1)
