"""The trend under a noisy loss curve, with its uncertainty: what the verdict on a curve rests on.

The log loss is a smooth path plus noise. The path is an integrated random walk: its second differences are
independent, with a scale that falls as a power of the time since training started or the learning rate
jumped, so that one prior suits a fast start and a slow tail. Where learning rates are known, two more things
may hold: the path moves in proportion to the rate, for weights do not move without one, and the rate itself
adds to the loss, for SGD stays at a loss that grows with its rate. Power, smoothness, bends, the part of the
rates and how the noise depends on the level are averaged over, weighted by restricted marginal likelihood. All
matrices are banded, so the cost is linear in the number of epochs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmce.convergence.banded import Array, draw
from fmce.convergence.smooth_path import (
    LEAST_WEIGHT,
    RATIOS,
    Curve,
    Fits,
    fit_priors,
    joined,
    priors_of,
)

_DRAWS = 64
# Degrees of freedom of the noise: a lone spike is passed over instead of bending the path.
_FREEDOM = 4.0
# Before the first fit: how far beyond the usual bend a spike stands out, and what it still counts.
_SPIKE, _SPIKE_WEIGHT = 10.0, 1e-4
# Bends are looked for at this many places, and at most so many are taken.
_PLACES, _MOST_BENDS = 24, 4
# Least share of the highest learning rate that counts; schedules end at 0.
_SLOWEST = 1e-2


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
            with np.errstate(divide="ignore", over="ignore"):  # levels far ahead may be 0
                share = threshold / np.exp(self.levels[:, :-1])
                low, high = np.log1p(-np.minimum(share, 1.0)), np.log1p(share)
        return (
            self.weights @ ndtr((low - steps) / self.spreads),
            self.weights @ ndtr((steps - high) / self.spreads),
        )


def fit_trend(
    losses: Array, jumps: Sequence[int] = (), *, rates: Array | None = None, horizon: int = 20
) -> Trend:
    """Fit the trend of a loss curve.

    Args:
        losses: (N,) finite or NaN (a gap); at least 3 finite values.
        jumps: 0-based epochs whose learning rate is not a continuation of the one before; there the path may
            jump. Where it bends anew without a jump is found in the curve.
        rates: (N,) learning rates, ≥ 0; the last one is taken for the epochs ahead.
        horizon: Epochs to extrapolate.

    Returns:
        The trend, on the log scale where all losses are positive, else on their own scale.
    """
    fit = _fit(losses, jumps, horizon, rates)
    members = fit.members
    normal = np.random.default_rng(0).standard_normal((len(members.mean), 1, _DRAWS))
    steps = np.diff(draw(members.factor, normal), axis=0)  # (N − 1, members, draws)
    squares = (steps**2).mean(axis=2) + np.diff(members.pull, axis=0) ** 2
    spreads = fit.spread * np.sqrt(squares * members.variance).T
    levels = fit.centre + fit.spread * members.mean.T
    level = fit.weights @ levels
    noise = fit.weights @ np.sqrt(members.variance)
    return Trend(
        path=np.exp(level) if fit.logarithmic else level,
        noise=float(noise) * fit.spread,
        starts=fit.starts,
        logarithmic=fit.logarithmic,
        levels=levels,
        spreads=np.maximum(spreads, 1e-13),
        weights=fit.weights,
    )


class _Fit(NamedTuple):
    """The members of the average on the scale they were fitted on: (value − centre) / spread."""

    members: Fits
    weights: Array
    starts: tuple[int, ...]
    logarithmic: bool
    centre: float
    spread: float


def _fit(losses: Array, jumps: Sequence[int], horizon: int, rates: Array | None = None) -> _Fit:
    seen = np.isfinite(losses)
    logarithmic = bool((losses[seen] > 0).all())
    values = np.log(losses, where=seen, out=np.zeros_like(losses)) if logarithmic else losses
    centre = float(values[seen].mean())
    spread = float(values[seen].std()) or 1.0
    scaled = np.concatenate([np.where(seen, (values - centre) / spread, 0.0), np.zeros(horizon)])
    trusted = np.where(_spikes(scaled[: len(losses)]), _SPIKE_WEIGHT, 1.0)
    observed = np.concatenate([seen * trusted, np.zeros(horizon)])
    curve = Curve(scaled, observed, (0, *jumps))
    members, bends = _members(curve, rates, spread if logarithmic else None)
    weights = np.exp(members.evidence - members.evidence[0])
    starts = tuple(sorted({0, *jumps, *bends}))
    return _Fit(members, weights / weights.sum(), starts, logarithmic, centre, spread)


def _with_rates(curve: Curve, rates: Array | None, level: Array) -> Curve:
    """Return the curve with what its learning rates say, unless they never change; the last rate is held.

    level: (N,) log loss, since a rate adds to the loss and not to its logarithm.
    """
    if rates is None or not rates.std() > 1e-9 * rates.max():
        return curve
    held = np.pad(rates, (0, len(level) - len(rates)), mode="edge")
    pull = held * np.exp(-np.clip(level, -12, 12))
    speed = (held[1:] + held[:-1]) / 2
    for start, end in pairwise((*curve.starts, len(held))):
        speed[start:end] /= speed[start : end - 1].max()
    speed = np.maximum(speed, _SLOWEST)
    return curve._replace(pull=pull / pull[: len(rates)].std(), speed=speed)


def _members(
    curve: Curve, rates: Array | None, log_spread: float | None
) -> tuple[Fits, tuple[int, ...]]:
    """Return the members of the average and the bends of the best; noise is made robust on the best path alone.

    log_spread: What one unit of the values is in log loss; None where they are no logs.
    """
    bend_sets = _bend_sets(curve)
    best = fit_priors(curve, priors_of(curve, bend_sets)).best()
    seen = curve.weights > 0
    square = (curve.values - best.mean[:, 0]) ** 2 * curve.weights / max(best.variance[0], 1e-26)
    # Student's weights of the residuals: 1.25 for none, towards 0 for spikes.
    student = np.where(seen, (_FREEDOM + 1) / (_FREEDOM + square), 1.0)
    level = (log_spread or 0.0) * (best.mean[:, 0] - best.mean[seen, 0].mean())
    robust = _with_rates(curve._replace(weights=curve.weights * student), rates, level)
    priors = priors_of(robust, bend_sets)
    found = [fit_priors(robust, priors)]
    if log_spread is not None:
        # Noise of constant size instead of constant share: on the log scale it shrinks as the loss grows.
        weights = robust.weights * np.exp(2 * np.clip(level, -12, 12))
        found.append(fit_priors(robust._replace(weights=weights), priors))
    members = joined([f.best() for f in found]).best()
    return members, priors[members.prior[0]].bends


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


def _bend_sets(curve: Curve) -> list[tuple[int, ...]]:
    """Return sets of epochs after which the curve itself moves anew: none, then one more at a time, by evidence."""
    count = int(np.flatnonzero(curve.weights)[-1]) + 1
    spacing = max(count // _PLACES, 1)
    sets: list[tuple[int, ...]] = [()]
    [known] = _best_evidence(curve, sets)
    for _ in range(_MOST_BENDS):
        taken = (*curve.starts, *sets[-1], count)
        places = [i for i in range(4, count - 3) if min(abs(i - t) for t in taken) > 3]
        coarse = places[::spacing]
        if not coarse:
            break
        found = _best_evidence(curve, [(*sets[-1], i) for i in coarse])
        best = coarse[int(found.argmax())]
        fine = [i for i in places if abs(i - best) < spacing]
        found = _best_evidence(curve, [(*sets[-1], i) for i in fine])
        # Evidence is net of the bend's price here.
        if found.max() - known < np.log(LEAST_WEIGHT):
            break
        sets.append((*sets[-1], fine[int(found.argmax())]))
        known = found.max()
    return sets


def _best_evidence(curve: Curve, bend_sets: Sequence[tuple[int, ...]]) -> Array:
    """Return the evidence of each set with the best power and a coarse grid of ratios."""
    ratios = RATIOS[::4]
    fits = fit_priors(curve, priors_of(curve, bend_sets), ratios)
    best: Array = fits.evidence.reshape(len(bend_sets), -1).max(axis=1)
    return best


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
    fit = _fit(losses, jumps, horizon)
    generator = np.random.default_rng(0)
    chosen = generator.choice(len(fit.weights), size=count, p=fit.weights)
    members = fit.members.take(chosen)
    deviations = draw(members.factor, generator.standard_normal((*members.mean.shape, 1)))[..., 0]
    noise = generator.standard_normal((horizon, count))
    ahead = deviations[-horizon:] + noise  # (horizon, S)
    paths = (members.mean[-horizon:] + ahead * np.sqrt(members.variance)).T
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


def block_means(values: Array, size: int) -> Array:
    """Return the means of blocks (N / size,), NaN where a block has no value."""
    if size == 1:
        return values
    padded = np.pad(values, (0, -len(values) % size), constant_values=np.nan).reshape(-1, size)
    seen = np.isfinite(padded).sum(axis=1)
    return np.where(seen > 0, np.nansum(padded, axis=1) / np.maximum(seen, 1), np.nan)
