"""Which checkpoints of a training may go, so that every later marker still has one nearby.

Epochs are points on a line; of those kept, the one whose neighbours are closest to each other goes first. Every
deleted epoch then stays within half the largest such gap of a kept one, however long the training gets.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fmce.convergence.markers import LOG_FLOOR, NoPhasesError, PhaseConfig, locate_markers
from fmce.convergence.smoothing import smooth_losses

# Kept checkpoints per phase.
PER_PHASE = 4


def epochs_to_drop(positions: Mapping[int, float], most: int) -> list[int]:
    """Return the epochs to delete, so that at most so many are left.

    The newest epoch and both ends of the line stay.

    Args:
        positions: Epoch → its place on a line, of every epoch that is kept now.
        most: How many may stay, at least 3.

    >>> epochs_to_drop({1: 0.0, 2: 1.0, 3: 1.1, 4: 2.0}, 3)
    [3]
    """
    kept = dict(positions)
    newest = max(kept, default=0)
    dropped = []
    while len(kept) > max(most, 3):
        order = sorted(kept, key=lambda epoch: (kept[epoch], epoch))
        inner = range(1, len(order) - 1)
        gaps = {
            order[i]: kept[order[i + 1]] - kept[order[i - 1]] for i in inner if order[i] != newest
        }
        least = min(gaps, key=lambda epoch: (gaps[epoch], epoch))
        dropped.append(least)
        del kept[least]
    return dropped


def loss_positions(losses: Sequence[float], config: PhaseConfig) -> NDArray[np.float64]:
    """Return the place of each epoch on the line along which checkpoints are thinned.

    It is the progress of the log smoothed loss since E_0, as markers measure it. With P the progress so far, or
    that of E_K once it is known, what lies above P, or below three quarters of the first phase, counts as lying
    there: no marker needs it. Where at most 4·K epochs stay, each marker of a curve whose progress never fell, and
    whose highest loss is among the first 4·K, has one within a quarter of a phase, P/(4K).

    Args:
        losses: (M,) one per epoch; NaN where there is none.
        config: Gives K, the smoothing and µ.

    Returns:
        (M,) places, at least 0.
    """
    progress, reached = log_progress(losses, config)
    floor = 0.75 * reached / config.num_phases
    return np.clip(progress, floor, max(reached, floor)) - floor


def log_progress(losses: Sequence[float], config: PhaseConfig) -> tuple[NDArray[np.float64], float]:
    """Return log L̃_{E_0} − log L̃_m of each epoch (M,), and the progress of E_K or, before it, the largest."""
    curve = _filled(losses)
    if not curve.size or not curve.max() > 0:
        return np.zeros(len(losses)), 0.0
    smoothed = smooth_losses(curve, config.decay, config.smoothing)
    logs = np.log(np.maximum(smoothed, LOG_FLOOR * smoothed.max()))
    progress = logs[int(curve.argmax())] - logs
    reached = float(progress.max())
    try:
        plain = replace(config, num_phases=1, if_not_converged="error")
        reached = float(progress[: locate_markers(curve, plain).markers[-1]].max())
    except NoPhasesError:
        pass  # µ is not reached yet
    return progress, reached


def _filled(losses: Sequence[float]) -> NDArray[np.float64]:
    """Return the losses with gaps and what no log scale fits replaced by the loss before."""
    filled: list[float] = []
    for loss in losses:
        good = math.isfinite(loss) and loss >= 0
        filled.append(loss if good else filled[-1] if filled else 0.0)
    return np.array(filled)
