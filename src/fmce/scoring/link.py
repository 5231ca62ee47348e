"""Statistics joined on one scale: a monotone function of each, which together move as the log of the loss does.

A phase is a share of the log loss's fall. So each statistic gets a function, and their sum stands for the log loss.
The answer is the share of the sum's fall that a run has covered. All functions are fitted at once, to the phases.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fmce.convergence.banded import Array
from fmce.scoring.history import NUM_PHASES, ModuleHistory
from fmce.scoring.monotone import MonotoneTable, fit_table

PROGRESS = "progress"
"""Among the tables of statistics, the one from the share covered, in phases, to the phase."""
_SEGMENTS = 6
# Pull of each segment's slope towards that of a straight line; chosen on the runs fitted on.
_PULL = 0.6
_STEPS = 100
# Beyond the values fitted on, tables continue straight for so many times their range.
_BEYOND = 10
_SMALLEST_FALL = 1e-3

Middles = Mapping[str, Array]


def middles_of(history: ModuleHistory, names: Sequence[str]) -> dict[str, Array]:
    """Return statistics (E+1,) in the middle of the first and of each measured epoch.

    An epoch's loss is its mean; the re-initialised twin stands for the network before the first one.
    """
    at, known = np.array([0.5, *(history.epochs - 0.5)]), [0, *history.epochs]
    return {
        name: np.interp(at, known, [history.twin.get(name, np.nan), *history.values[name]])
        for name in names
        if name in history.values
    }


def linked(tables: Mapping[str, MonotoneTable], middles: Middles) -> tuple[Array, Array]:
    """Return phases (E,) and how far apart those by each statistic alone lie, from first to third quartile.

    Statistics are left out that are undefined where others are not.
    """
    found = np.stack([tables[name](middles[name]) for name in tables if name in middles])
    alive = np.isfinite(found).any(0)
    found = found[np.isfinite(found[:, alive]).all(1)]
    falls = np.stack([found.sum(0), *found])
    answers = tables[PROGRESS](_shares(falls[:, 1:] - falls[:, :1]))
    spread = np.full(answers.shape[1], np.nan)
    single = answers[1:][np.isfinite(answers[1:, -1:]).all(1)]
    if len(single):
        low, high = np.quantile(single, (0.25, 0.75), axis=0)
        spread = high - low
    return answers[0], spread


def _shares(falls: Array) -> Array:
    """Return the share of the last fall (…, 1) that each one (…, E) is, in phases; NaN where that is too small."""
    last = falls[..., -1:]
    last = np.where(np.abs(last) > _SMALLEST_FALL, last, np.nan)
    return np.asarray(NUM_PHASES * falls / last)


def fit_link(
    pool: Sequence[tuple[Middles, Array]], names: Sequence[str]
) -> dict[str, MonotoneTable]:
    """Fit the tables of statistics, and the one of progress; each history has the same weight.

    Args:
        pool: The statistics of each history in the middle of epochs (E+1,), and its true phases (E,).
        names: Statistics to use; those that are equal everywhere are left out.

    Raises:
        ValueError: If all are equal everywhere.
    """
    from scipy.optimize import Bounds, minimize

    knots, slopes = dict[str, Array](), dict[str, float]()
    for name in names:
        values = [one[name] for one, _ in pool if name in one and np.isfinite(one[name]).all()]
        together = np.concatenate(values) if values else np.zeros(0)
        cuts = (
            np.unique(np.quantile(together, np.linspace(0, 1, _SEGMENTS + 1)))
            if values
            else together
        )
        if len(cuts) > 1:
            rising = np.median([v[-1] - v[0] for v in values]) >= 0
            knots[name] = np.asarray(cuts)
            slopes[name] = (1 if rising else -1) / together.std() / len(names)
    if not knots:
        raise ValueError(
            f"expected statistics that move in some run, got constant {', '.join(names)}"
        )
    straight = np.concatenate([np.diff(knots[n]) * slopes[n] for n in knots])  # (P,) rises
    parts = [_covered(knots, one) * straight for one, _ in pool]  # each (E+1,P)
    falls = np.concatenate([part[1:] - part[0] for part in parts])  # (N,P)
    ends = np.concatenate([np.tile(part[-1] - part[0], (len(part) - 1, 1)) for part in parts])
    truth = np.concatenate([phases for _, phases in pool])
    weights = np.concatenate([np.full(len(p), 1 / len(p) / len(pool)) for _, p in pool])

    def error(factors: Array) -> tuple[float, Array]:
        fall, end = falls @ factors, np.maximum(ends @ factors, _SMALLEST_FALL)
        apart = NUM_PHASES * fall / end - truth
        # Huber's loss: a run that no factors fit shall not decide them.
        pull = np.clip(apart, -1, 1)
        loss = weights @ (pull * (apart - pull / 2)) + _PULL * ((factors - 1) ** 2).mean()
        push = weights * pull * NUM_PHASES / end
        slope = falls.T @ push - ends.T @ (push * fall / end)
        return float(loss), slope + 2 * _PULL * (factors - 1) / len(factors)

    fitted = minimize(
        error,
        np.ones(len(straight)),
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(0, np.inf),
        options={"maxiter": _STEPS},
    )
    rises = np.split(straight * fitted.x, np.cumsum([len(knots[n]) - 1 for n in knots])[:-1])
    tables = {name: _table(knots[name], rise) for name, rise in zip(knots, rises, strict=True)}
    found = np.concatenate([_shares((part[1:] - part[0]) @ fitted.x) for part in parts])
    return tables | {PROGRESS: fit_table(found, truth, weights)}


def _covered(knots: Mapping[str, Array], middles: Middles) -> Array:
    """Return how much of each segment lies below the values (E+1,P), the outer ones continued; 0 if not known."""
    length = len(next(iter(middles.values())))
    columns = []
    for name, cuts in knots.items():
        values = middles.get(name)
        if values is None or not np.isfinite(values).all():
            columns.append(np.zeros((length, len(cuts) - 1)))
            continue
        share = (values[:, None] - cuts[:-1]) / np.diff(cuts)
        low, high = np.zeros(len(cuts) - 1), np.ones(len(cuts) - 1)
        low[0], high[-1] = -np.inf, np.inf
        columns.append(np.clip(share, low, high))
    return np.concatenate(columns, 1)


def _table(cuts: Array, rises: Array) -> MonotoneTable:
    """Return a table through the knots, continued straight at both ends."""
    heights = np.concatenate([[0.0], np.cumsum(rises)])
    slopes, far = rises / np.diff(cuts), _BEYOND * (cuts[-1] - cuts[0])
    x = np.array([cuts[0] - far, *cuts, cuts[-1] + far])
    ends = heights[0] - slopes[0] * far, heights[-1] + slopes[-1] * far
    return MonotoneTable(x, np.array([ends[0], *heights, ends[1]]))
