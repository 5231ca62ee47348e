"""One monotone table per statistic, and what they say together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmce.convergence.banded import Array

_KNOTS = 24
# Epochs.
_WIDTH = 1.5


@dataclass(frozen=True)
class MonotoneTable:
    """A piecewise linear, monotone function.

    Attributes:
        x: (J,) knots, ascending.
        y: (J,) its values there; constant outside.
    """

    x: Array
    y: Array

    def __call__(self, x: Array) -> Array:
        """Return its values at x; NaN stays NaN."""
        return np.asarray(np.interp(x, self.x, self.y))


def fit_table(x: Array, y: Array, weights: Array) -> MonotoneTable:
    """Fit y as a monotone function of x (both (N,)), rising or falling as their ranks do.

    Raises:
        ValueError: If there are fewer than two finite values.
    """
    from scipy.stats import spearmanr
    from sklearn.isotonic import IsotonicRegression

    known = np.isfinite(x) & np.isfinite(y)
    x, y, weights = x[known], y[known], weights[known]
    if len(np.unique(x)) < 2:
        raise ValueError(f"expected at least two values to fit a table on, got {len(np.unique(x))}")
    rising = bool(np.nan_to_num(spearmanr(x, y).statistic) >= 0)
    fitted = IsotonicRegression(increasing=rising).fit(x, y, weights)
    # Knots at even quantiles: a table of every step would be larger and no better.
    # Values that differ by rounding errors are one knot.
    quantiles = np.quantile(x, np.linspace(0, 1, _KNOTS))
    knots = np.unique([float(f"{value:.7g}") for value in quantiles])
    # The mean of a step's two sides at a knot, so that no step is passed at one of its ends.
    width = np.diff(knots, prepend=knots[0], append=knots[-1]) / 2
    below, above = knots - width[:-1] / 2, knots + width[1:] / 2
    low, high = (fitted.predict(np.clip(p, x.min(), x.max())) for p in (below, above))
    return MonotoneTable(knots, (low + high) / 2)


def combine(answers: Sequence[Array]) -> tuple[Array, Array]:
    """Return the mean of the tables' answers (N,) and how far apart they lie, leaving out those that are NaN."""
    stacked = np.stack(answers)
    known = np.isfinite(stacked).any(0)
    middle, spread = np.full(stacked.shape[1], np.nan), np.full(stacked.shape[1], np.nan)
    if known.any():
        middle[known] = np.nanmean(stacked[:, known], axis=0)
        low, high = np.nanquantile(stacked[:, known], (0.25, 0.75), axis=0)
        spread[known] = high - low
    return middle, spread


def smoothed_along(epochs: NDArray[np.int64], values: Array) -> Array:
    """Return values (E,) averaged over neighbouring epochs by local lines, 1.5 epochs wide; NaN stays NaN.

    >>> smoothed_along(np.array([1, 2, 3]), np.array([1.0, 2.0, 3.0])).round(6).tolist()
    [1.0, 2.0, 3.0]
    """
    known, found = np.isfinite(values), np.full(len(values), np.nan)
    x, y = epochs[known].astype(np.float64), values[known]
    for place in np.flatnonzero(known):
        gap = x - epochs[place]
        weight = np.exp(-((gap / _WIDTH) ** 2) / 2)
        design = np.stack([np.ones(len(x)), gap], 1)  # (E,2)
        square = design.T @ (weight[:, None] * design) + 1e-9 * np.eye(2)
        found[place] = np.linalg.solve(square, design.T @ (weight * y))[0]
    return found


def answers_of(tables: Mapping[str, MonotoneTable], inputs: Mapping[str, Array]) -> list[Array]:
    """Return each table's answer to its statistic, of those that are known."""
    return [table(inputs[name]) for name, table in tables.items() if name in inputs]
