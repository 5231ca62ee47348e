"""The trend under a noisy loss curve, with its uncertainty: what the verdict on a curve rests on.

The log loss is a smooth path plus noise. The path is an integrated random walk: its second differences are
independent, with a scale that falls as a power of the time since training started or the learning rate
jumped, so that one prior suits a fast start and a slow tail. Power, smoothness and how the noise depends
on the level are averaged over, weighted by restricted marginal likelihood. All matrices are banded, so the
cost is linear in the number of epochs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Powers of the time since a start by which the precision of second differences grows.
_POWERS = (0, 2, 4)
# Variance of the noise over that of the second differences; the ends are a path through every point
# and nearly a straight line.
_RATIOS = np.geomspace(1e-9, 1e8, 52)
# Members of the average beyond these carry no weight that matters.
_MOST_MEMBERS, _LEAST_WEIGHT = 12, 1e-3
_DRAWS = 64
# Degrees of freedom of the noise: a lone spike is passed over instead of bending the path.
_FREEDOM = 4.0
# Before the first fit: how far beyond the usual bend a spike stands out, and what it still counts.
_SPIKE, _SPIKE_WEIGHT = 10.0, 1e-4
# Bends are looked for at this many places, and at most so many are taken.
_PLACES, _MOST_BENDS = 24, 4


class _Member(NamedTuple):
    """One choice of power, ratio and noise weights. mean: (N,). factor: banded Cholesky factor (3,N)."""

    evidence: float
    power: int
    ratio: float
    variance: float
    mean: Array
    factor: Array
    weights: Array


@dataclass(frozen=True, eq=False)
class Trend:
    """A fitted path and what can be said of its steps.

    Args:
        path: (N + horizon,) expected loss of each epoch in the curve's unit; the last `horizon` epochs lie
            ahead of the curve.
        noise: Relative standard deviation of the noise; of a curve judged on its own scale, absolute.
        starts: 0-based epochs from which the path moves anew: the first one, jumps and bends.
        logarithmic: Whether the curve was fitted as log loss.
        levels: (members, N + horizon) fitted values of each member: log losses where `logarithmic`.
        spreads: (members, N + horizon − 1) standard deviation of each step of them.
        weights: (members,) the members' shares, which sum to 1.
    """

    path: Array
    noise: float
    starts: tuple[int, ...]
    logarithmic: bool
    levels: Array
    spreads: Array
    weights: Array

    def step_probabilities(self, threshold: float) -> tuple[Array, Array]:
        """Return, for every step, the probabilities that the path falls and that it rises by more than `threshold`.

        Args:
            threshold: µ, in the unit of the losses per epoch.

        Returns:
            Two arrays of shape (N + horizon − 1,), in [0, 1].
        """
        from scipy.special import ndtr

        steps = np.diff(self.levels, axis=1)
        low, high = np.array(-threshold), np.array(threshold)
        if self.logarithmic:  # a step d of the log moves a loss of f by f·(exp d − 1)
            share = threshold / np.exp(self.levels[:, :-1])
            with np.errstate(divide="ignore"):
                low, high = np.log1p(-np.minimum(share, 1.0)), np.log1p(share)
        return (
            self.weights @ ndtr((low - steps) / self.spreads),
            self.weights @ ndtr((steps - high) / self.spreads),
        )


def fit_trend(losses: Array, jumps: Sequence[int] = (), *, horizon: int = 20) -> Trend:
    """Fit the trend of a loss curve.

    Args:
        losses: (N,) finite or NaN (a gap); at least 3 finite values.
        jumps: 0-based epochs whose learning rate is not a continuation of the one before; there the path may
            jump. Where it bends anew without a jump is found in the curve.
        horizon: Epochs to extrapolate.

    Returns:
        The trend, on the log scale where all losses are positive, else on their own scale.
    """
    fit = _fit(losses, jumps, horizon)
    draws = np.random.default_rng(0).standard_normal((len(losses) + horizon, _DRAWS))
    spreads = np.stack([_step_spreads(m, draws) for m in fit.members])
    levels = fit.centre + fit.spread * np.stack([m.mean for m in fit.members])
    level = fit.weights @ levels
    noise = fit.weights @ np.sqrt([m.variance for m in fit.members])
    return Trend(
        path=np.exp(level) if fit.logarithmic else level,
        noise=float(noise) * fit.spread,
        starts=fit.starts,
        logarithmic=fit.logarithmic,
        levels=levels,
        spreads=np.maximum(spreads * fit.spread, 1e-13),
        weights=fit.weights,
    )


class _Fit(NamedTuple):
    """The members of the average on the scale they were fitted on: (value − centre) / spread."""

    members: list[_Member]
    weights: Array
    starts: tuple[int, ...]
    logarithmic: bool
    centre: float
    spread: float


def _fit(losses: Array, jumps: Sequence[int], horizon: int) -> _Fit:
    seen = np.isfinite(losses)
    logarithmic = bool((losses[seen] > 0).all())
    values = np.log(losses, where=seen, out=np.zeros_like(losses)) if logarithmic else losses
    centre = float(values[seen].mean())
    spread = float(values[seen].std()) or 1.0
    scaled = np.concatenate([np.where(seen, (values - centre) / spread, 0.0), np.zeros(horizon)])
    trusted = np.where(_spikes(scaled[: len(losses)]), _SPIKE_WEIGHT, 1.0)
    observed = np.concatenate([seen * trusted, np.zeros(horizon)])
    starts = (0, *jumps)
    bends = _found_bends(scaled, observed, starts)
    members = _members(scaled, observed, starts, bends, spread if logarithmic else None)
    evidence = np.array([m.evidence for m in members])
    weights = np.exp(evidence - evidence.max())
    return _Fit(
        members,
        weights / weights.sum(),
        tuple(sorted({*starts, *bends})),
        logarithmic,
        centre,
        spread,
    )


def _members(
    values: Array,
    observed: Array,
    starts: tuple[int, ...],
    bends: tuple[int, ...],
    log_spread: float | None,
) -> list[_Member]:
    """Return the members of the average, best first; the noise is made robust on the best one.

    log_spread: What one unit of `values` is in log loss; None where they are no logs.
    """
    best = max(_fits(values, observed, starts, bends), key=lambda m: m.evidence)
    robust = observed * _robust_weights(values, best)
    candidates = list(_fits(values, robust, starts, bends))
    if log_spread is not None:
        # Noise of constant size instead of constant share: on the log scale it shrinks as the loss grows.
        level = log_spread * (best.mean - best.mean[observed > 0].mean())
        additive = robust * np.exp(2 * np.clip(level, -12, 12))
        candidates += _fits(values, additive, starts, bends)
    candidates.sort(key=lambda m: -m.evidence)
    top = candidates[0].evidence
    return [m for m in candidates[:_MOST_MEMBERS] if np.exp(m.evidence - top) > _LEAST_WEIGHT]


def _fits(
    values: Array,
    weights: Array,
    starts: tuple[int, ...],
    bends: tuple[int, ...] = (),
    ratios: Array = _RATIOS,
) -> Iterator[_Member]:
    """Yield the fit of every power and ratio; weights (N,) are the precisions of the noise, 0 where unseen."""
    from scipy.linalg import cho_solve_banded, cholesky_banded

    seen = weights > 0
    fixed = float(np.log(weights[seen]).sum())
    for power in _POWERS:
        places, scale = _second_differences(len(values), starts, bends, power)
        freedom = int(seen.sum()) - (len(values) - len(places))
        if freedom < 1:
            continue
        unit = _penalty(len(values), places, scale)
        for ratio in ratios:
            matrix = ratio * unit
            matrix[0] += weights
            try:
                factor = cholesky_banded(matrix, lower=True, check_finite=False)
            except np.linalg.LinAlgError:
                continue  # too stiff for double precision
            mean = cho_solve_banded((factor, True), weights * values, check_finite=False)
            # y'W(y − m) as a sum of squares: the difference itself would drown in rounding.
            curved = mean[places - 1] - 2 * mean[places] + mean[places + 1]
            misfit = float(ratio * (scale @ curved**2) + weights @ (values - mean) ** 2)
            misfit = max(misfit, 1e-28 * len(values))
            evidence = -0.5 * (
                freedom * np.log(misfit / freedom)
                + 2 * np.log(factor[0]).sum()
                - len(places) * np.log(ratio)
                - np.log(scale).sum()
                - fixed
            )
            yield _Member(
                float(evidence), power, float(ratio), misfit / freedom, mean, factor, weights
            )


def _second_differences(
    count: int, starts: tuple[int, ...], bends: tuple[int, ...], power: int
) -> tuple[NDArray[np.intp], Array]:
    """Return the middles of the second differences that bind the path, and the precision of each.

    None reaches over a start, where the path may jump. Over a bend it stays whole and is as free as at a start.
    """
    every = np.arange(1, count - 1)
    free = np.isin(every, starts) | np.isin(every + 1, starts)
    edges = np.array(sorted({*starts, *bends, count}))
    stretch = np.searchsorted(edges, every, side="right") - 1
    age = (every - edges[stretch] + 1.0) / (edges[stretch + 1] - edges[stretch])
    return every[~free], age[~free] ** power


def _penalty(count: int, places: NDArray[np.intp], scale: Array) -> Array:
    """Return D'WD of the second differences as its diagonals (3,N), the main one first."""
    matrix = np.zeros((3, count))
    for shift, share in ((-1, 1.0), (0, 4.0), (1, 1.0)):
        np.add.at(matrix[0], places + shift, share * scale)
    np.add.at(matrix[1], places - 1, -2 * scale)
    np.add.at(matrix[1], places, -2 * scale)
    np.add.at(matrix[2], places - 1, scale)
    # A stretch of one or two epochs has no second difference; a hint of stiffness keeps the matrix regular.
    matrix[0] += 1e-12
    return matrix


def _spikes(values: Array) -> NDArray[np.bool_]:
    """Return which values (N,) stand out on one side from both neighbours, far beyond what is usual nearby."""
    found = np.zeros(len(values), dtype=bool)
    bent = np.abs(np.diff(values, 2))  # of the value at its index + 1
    steps = np.diff(values)
    for i in np.flatnonzero(steps[:-1] * steps[1:] < 0).tolist():
        near = np.delete(bent[max(i - 6, 0) : i + 7], slice(max(min(i, 6) - 1, 0), min(i, 6) + 2))
        usual = float(np.median(near)) if near.size else np.inf
        found[i + 1] = min(abs(steps[i]), abs(steps[i + 1])) > _SPIKE * usual + 1e-9
    return found


def _robust_weights(values: Array, member: _Member) -> Array:
    """Return Student's weights of the residuals: 1.25 for none, towards 0 for spikes."""
    square = (values - member.mean) ** 2 * member.weights / max(member.variance, 1e-26)
    return np.where(member.weights > 0, (_FREEDOM + 1) / (_FREEDOM + square), 1.0)


def _step_spreads(member: _Member, draws: Array) -> Array:
    """Return the standard deviation of each step of the path, from draws (N,S) of its posterior."""
    from scipy.linalg import solve_banded

    paths = solve_banded((0, 2), _upper(member.factor), draws, check_finite=False)
    spreads: Array = np.sqrt((np.diff(paths, axis=0) ** 2).mean(axis=1) * member.variance)
    return spreads


def _upper(factor: Array) -> Array:
    """Return the transpose of a lower banded factor, as `solve_banded` takes it."""
    upper = np.zeros_like(factor)
    upper[2] = factor[0]
    upper[1, 1:] = factor[1, :-1]
    upper[0, 2:] = factor[2, :-2]
    return upper


def _found_bends(values: Array, observed: Array, starts: tuple[int, ...]) -> tuple[int, ...]:
    """Return the epochs after which the curve itself moves anew, by evidence, one at a time."""
    count = int(np.flatnonzero(observed)[-1]) + 1

    def evidence(bends: tuple[int, ...]) -> float:
        fits = _fits(values, observed, starts, bends, _RATIOS[::6])
        return max((m.evidence for m in fits), default=-np.inf)

    bends: tuple[int, ...] = ()
    known = evidence(bends)
    spacing = max(count // _PLACES, 1)
    for _ in range(_MOST_BENDS):
        taken = (*starts, *bends, count)
        tried = [i for i in range(4, count - 3, spacing) if min(abs(i - t) for t in taken) > 3]
        found = {i: evidence((*bends, i)) for i in tried}
        if not found:
            break
        best = max(found, key=found.__getitem__)
        near = [best + d for d in range(-spacing + 1, spacing) if d and 4 <= best + d < count - 3]
        found |= {i: evidence((*bends, i)) for i in near}
        best = max(found, key=found.__getitem__)
        # A bend costs its place and the freedom behind it.
        if found[best] - known < 2 + np.log(count):
            break
        bends, known = (*bends, best), found[best]
    return tuple(sorted(bends))


def sample_paths(
    losses: Array, jumps: Sequence[int] = (), *, horizon: int, count: int = 200
) -> Array:
    """Draw curves that may follow: trend and noise of the epochs ahead, given those seen.

    Args:
        losses: (N,) finite or NaN; at least 3 finite values.
        jumps: As for `fit_trend`.
        horizon: Epochs ahead.
        count: S, how many curves.

    Returns:
        (S, horizon), in the curve's unit. The same for the same losses: the generator's seed is fixed.
    """
    from scipy.linalg import solve_banded

    fit = _fit(losses, jumps, horizon)
    generator = np.random.default_rng(0)
    chosen = generator.choice(len(fit.members), size=count, p=fit.weights)
    paths = np.empty((count, horizon))
    for index, member in enumerate(fit.members):
        rows = np.flatnonzero(chosen == index)
        draws = generator.standard_normal((len(member.mean), len(rows)))
        deviations = solve_banded((0, 2), _upper(member.factor), draws, check_finite=False)
        drawn = member.mean[:, None] + deviations * np.sqrt(member.variance)
        noise = generator.standard_normal((horizon, len(rows))) * np.sqrt(member.variance)
        paths[rows] = (drawn[-horizon:] + noise).T
    scaled = fit.centre + fit.spread * paths
    return np.exp(scaled) if fit.logarithmic else scaled


def settled_epoch(moves: Sequence[bool] | NDArray[np.bool_]) -> int:
    """Return the first 1-based epoch from which no step moves; one beyond the last where the last one does."""
    moving = np.flatnonzero(moves)
    return int(moving[-1]) + 2 if moving.size else 1


def epochs_until(loss: float, change: float, threshold: float, logarithmic: bool) -> int | None:
    """Return the epochs until a fall that decays with the loss is down to the threshold; None on a plain scale."""
    if not logarithmic or loss <= 0 or change >= 0:
        return None
    rate = -np.log1p(max(change / loss, -0.999))
    return max(int(np.ceil(np.log(max(-change / threshold, 1.0)) / rate)), 1)
