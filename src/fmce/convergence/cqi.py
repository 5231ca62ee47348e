"""The convergence quantification indicator, CQI (FMCE, section IV-B, second and third equation).

CQI is the mean absolute change of the smoothed loss over the last epochs. Where it falls to a
threshold the run counts as converged; that decision is made in ``phases.py``, not here.
"""

import operator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from fmce.convergence.smoothing import checked_sequence

# From so many values on, NumPy adds in another order than one after the other.
_PAIRWISE_FROM = 8


def cqi(smoothed: ArrayLike, window: int = 5) -> NDArray[np.float64]:
    """Measure how much a smoothed loss sequence still moves.

    CQI_m is the mean of |L̃_i − L̃_{i−1}| over the last min(B, m−1) epochs i ≤ m, with B =
    ``window`` (FMCE, section IV-B; the printed factor 1/b is a slip for 1/B). It is undefined at
    the first epoch, which has no predecessor.

    Args:
        smoothed: M smoothed losses in epoch order, finite.
        window: B, at least 1 epoch.

    Returns:
        M float64 values ≥ 0 in the unit of ``smoothed`` per epoch; NaN at the first epoch.

    Raises:
        ValueError: ``smoothed`` is not a non-empty 1-d sequence of finite numbers, or ``window``
            is not a whole number of at least 1.

    Example:
        >>> cqi([4.0, 2.0, 1.0, 1.0], window=2).tolist()
        [nan, 2.0, 1.5, 0.5]
    """
    values = checked_sequence(smoothed, "smoothed")
    width = checked_count(window, "window")
    indicator = np.full(values.size, np.nan)
    if values.size == 1:
        return indicator
    steps = np.diff(values)
    np.abs(steps, out=steps)
    head = min(width, steps.size)
    means = indicator[1:]  # a view: arrays of long curves take longer to allocate than to fill
    means[:head] = np.cumsum(steps[:head]) / np.arange(1, head + 1)
    # Each window is summed afresh: a running sum would leave rounding dust where the curve is flat.
    _sum_windows(steps, head, means[head - 1 :])
    means[head - 1 :] /= head
    # A mean never exceeds the largest change; rounding would let it by one unit in the last place.
    np.minimum(means, steps.max(), out=means)
    return indicator


def _sum_windows(steps: NDArray[np.float64], width: int, sums: NDArray[np.float64]) -> None:
    """Fill `sums` with the sum of each `width` neighbours, added in the order that NumPy's `sum` has for so many."""
    if width >= _PAIRWISE_FROM:
        sliding_window_view(steps, width).sum(axis=1, out=sums)
        return
    sums[:] = steps[: sums.size]
    for shift in range(1, width):
        sums += steps[shift : shift + sums.size]


def checked_count(value: int, name: str) -> int:
    """Return a whole number of at least 1 as a Python int, or refuse it.

    Args:
        value: The number, of any integer type but bool.
        name: What to call it in an error.

    Returns:
        The number as a Python int.

    Raises:
        ValueError: Not an integer, or below 1.
    """
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")
    return count
