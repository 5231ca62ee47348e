"""Intervals of a score from how far off it was on runs that its tables had not seen (split conformal prediction)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fmce.convergence.banded import Array
from fmce.scoring.history import NUM_PHASES

COVERAGE = 0.9
FEWEST_SCORES = 20
_KNOTS, _NEIGHBOURS = 11, 0.25


@dataclass(frozen=True)
class Offsets:
    """How far the truth lies below and above a score, in 90 % of cases.

    Attributes:
        at: (J,) scores, ascending.
        low: (J,) offset of the lower end there, at most 0.
        high: (J,) offset of the upper end there, at least 0.
    """

    at: Array
    low: Array
    high: Array

    def around(self, scores: Array) -> tuple[Array, Array]:
        """Return the ends of the interval of each score."""
        return (
            scores + np.interp(scores, self.at, self.low),
            scores + np.interp(scores, self.at, self.high),
        )


def fit_offsets(
    scores: Array, truth: Array, groups: int, *, largest: float = NUM_PHASES
) -> Offsets:
    """Fit offsets on scores of unseen runs and their true values, both (N,).

    Args:
        scores: What the scorer gave.
        truth: What was right.
        groups: How many groups were left out, one after the other; fewer make wider intervals.
        largest: Of the scale, which begins at 0.

    Raises:
        ValueError: If there are fewer than 20 of them.
    """
    known = np.isfinite(scores) & np.isfinite(truth)
    scores, errors = scores[known], (truth - scores)[known]
    if len(scores) < FEWEST_SCORES:
        raise ValueError(
            f"an interval needs {FEWEST_SCORES} scores of unseen runs, got {len(scores)}"
        )
    at = np.linspace(0, largest, _KNOTS)
    near = max(FEWEST_SCORES, int(_NEIGHBOURS * len(scores)))
    # One group more than there are: the next is as likely to be the worst one.
    tail = (1 - COVERAGE) / 2 * (1 - 1 / (groups + 1))
    ends = []
    for place in at:
        chosen = errors[np.argsort(np.abs(scores - place), kind="stable")[:near]]
        ends.append(np.quantile(chosen, (tail, 1 - tail)))
    low, high = np.array(ends).T
    return Offsets(at, np.minimum(low, 0), np.maximum(high, 0))


def widest(offsets: Mapping[str, Offsets]) -> Offsets:
    """Return, at each score, the widest of several offsets."""
    first = next(iter(offsets.values()))
    low = np.min([one.low for one in offsets.values()], 0)
    high = np.max([one.high for one in offsets.values()], 0)
    return Offsets(first.at, low, high)
