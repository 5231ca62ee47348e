"""Fits of one smooth path to a curve: every prior with every ratio of noise, by marginal likelihood.

`trend.py` averages over them. Second differences of the path are independent and normal; their precision grows with
a power of the age of the stretch, and their steps may be measured in learning rate instead of epochs.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmce.convergence.banded import Array, Factor, factorise, solve

# Powers of the time since a start by which the precision of second differences grows.
_POWERS = (0, 2, 4)
# Variance of the noise over that of the second differences; the ends are a path through every point
# and nearly a straight line.
RATIOS = np.geomspace(1e-9, 1e8, 35)
# Members of an average beyond these carry no weight that matters.
_MOST_MEMBERS, LEAST_WEIGHT = 60, 1e-3


class Curve(NamedTuple):
    """What is fitted. values, weights (precisions of the noise, 0 where unseen): (N,).

    pull: (N,) what a rate adds; speed: (N − 1,) share of the stretch's highest rate at each step. None where unknown.
    """

    values: Array
    weights: Array
    starts: tuple[int, ...]
    pull: Array | None = None
    speed: Array | None = None


class Prior(NamedTuple):
    """What a path is taken to be: the precision of its second differences around epochs 1 to N − 2.

    scale: (N − 2,) 0 where the path may jump. before, after: (N − 2,) what a step there counts.
    """

    bends: tuple[int, ...]
    scale: Array
    before: Array
    after: Array


class Fits(NamedTuple):
    """B fits, each of one prior and ratio. evidence, variance of the noise, prior's index: (B,). mean: (N,B).

    pull: (N,B) what one standard deviation of the rates' coefficient does to the path, over the noise's deviation.
    """

    evidence: Array
    prior: NDArray[np.intp]
    variance: Array
    mean: Array
    pull: Array
    factor: Factor

    def take(self, columns: NDArray[np.intp]) -> "Fits":
        """Return some of the fits."""
        parts = (part[..., columns] for part in self[:-1])
        return Fits(*parts, self.factor.take(columns))  # type: ignore[arg-type,call-arg]

    def best(self) -> "Fits":
        """Return those that carry weight, best first."""
        order = np.argsort(-self.evidence, kind="stable")[:_MOST_MEMBERS]
        near = self.evidence[order] > self.evidence[order[0]] + np.log(LEAST_WEIGHT)
        return self.take(order[near])


def joined(parts: Sequence[Fits]) -> Fits:
    """Return all fits of several."""
    columns = [np.concatenate([p[i] for p in parts], axis=-1) for i in range(5)]
    factors = (
        np.concatenate(part, axis=1) for part in zip(*(p.factor for p in parts), strict=True)
    )
    return Fits(*columns, Factor(*factors))  # type: ignore[arg-type,call-arg]


def bend_price(curve: Curve) -> float:
    """Return what a bend has to gain in log evidence: it could be anywhere."""
    return float(np.log(np.flatnonzero(curve.weights)[-1] + 1))


def fit_priors(curve: Curve, priors: Sequence[Prior], ratios: Array = RATIOS) -> Fits:
    """Fit every prior with every ratio, without and, where they are known, with what the rates add."""
    count, parts = len(curve.values), (len(curve.values), len(priors) * len(ratios))
    weights, values = curve.weights[:, None], curve.values[:, None]
    scale, before, after = (
        np.stack([getattr(p, part) for p in priors], axis=1) for part in Prior._fields[1:]
    )  # (N − 2, priors)
    bound = scale > 0
    places = bound.sum(axis=0)
    freedom = np.repeat((curve.weights > 0).sum() - (count - places), len(ratios))
    # log |D'WD| over the space in which it is not 0, less that of the weights.
    prior_size = np.log(np.where(bound, scale * after**2, 1.0)).sum(axis=0)
    prior_size += np.log(curve.weights[curve.weights > 0]).sum()
    known = (prior_size[:, None] + places[:, None] * np.log(ratios)).reshape(-1)
    main, first, second = (
        (part[:, :, None] * ratios).reshape(parts) for part in _penalty(scale, before, after)
    )
    with np.errstate(all="ignore"):  # what is too stiff for double precision is left out below
        factor = factorise(main + weights, first, second)
        mean = solve(factor, np.broadcast_to(weights * values, parts))
        # y'W(y − m) as a sum of squares: the difference itself would drown in rounding.
        steps = np.diff(mean, axis=0).reshape(count - 1, len(priors), len(ratios))
        curved = after[:, :, None] * steps[1:] - before[:, :, None] * steps[:-1]
        rough = (ratios * (scale[:, :, None] * curved**2).sum(axis=0)).reshape(-1)
        least = 1e-28 * count
        misfit = np.maximum(rough + (weights * (values - mean) ** 2).sum(axis=0), least)
        size = np.log(factor.diagonal).sum(axis=0) - known
        evidence = -0.5 * (freedom * np.log(misfit / freedom) + size)
        evidence -= np.repeat([len(p.bends) * bend_price(curve) for p in priors], len(ratios))
        evidence[~np.isfinite(evidence) | (freedom < 1)] = -np.inf
        prior = np.repeat(np.arange(len(priors)), len(ratios))
        plain = Fits(evidence, prior, misfit / freedom, mean, np.zeros(parts), factor)
        if curve.pull is None:
            return plain
        # One coefficient for the rates, standard normal in units of the curve, updated by the curve.
        pull = curve.pull[:, None]
        rest = pull - solve(factor, np.broadcast_to(weights * pull, parts))
        told = (weights * pull * rest).sum(axis=0)
        total = told + plain.variance
        share = (weights * pull * (values - mean)).sum(axis=0) / total
        left = np.maximum(misfit - share**2 * total, least)
        gain = 0.5 * (freedom * np.log(misfit / left) - np.log(total / plain.variance))
        # A path that may jump where the rates do explains them already.
        useless = ~np.isfinite(gain) | (told < 1e-6 * (weights * pull**2).sum())
        pulled = plain._replace(
            evidence=np.where(useless, -np.inf, evidence + gain),
            variance=left / freedom,
            mean=mean + share * rest,
            pull=rest / np.sqrt(total),
        )
    return joined([plain, pulled])


def priors_of(curve: Curve, bend_sets: Sequence[tuple[int, ...]]) -> list[Prior]:
    """Return the priors of each set of bends: every power of the age, at the pace of the epochs and of the rates.

    No second difference reaches over a start, where the path may jump. Over a bend the path stays whole and is as free
    as at a start.
    """
    count = len(curve.values)
    middles = np.arange(1, count - 1)
    bound = ~(np.isin(middles, curve.starts) | np.isin(middles + 1, curve.starts))
    steady = np.ones(count - 1)
    paces = [steady] if curve.speed is None else [steady, curve.speed]
    priors = []
    for bends, pace, power in product(bend_sets, paces, _POWERS):
        edges = np.array(sorted({*curve.starts, *bends, count}))
        stretch = np.searchsorted(edges, middles, side="right") - 1
        age = (middles - edges[stretch] + 1.0) / (edges[stretch + 1] - edges[stretch])
        priors.append(Prior(bends, bound * age**power, 1 / pace[:-1], 1 / pace[1:]))
    return priors


def _penalty(scale: Array, before: Array, after: Array) -> tuple[Array, Array, Array]:
    """Return D'WD of the second differences (N − 2, P) as its diagonals (N, P), the main one first."""
    zero, both = np.zeros((1, scale.shape[1])), before + after
    main = np.concatenate([scale * before**2, zero, zero])
    main[1:-1] += scale * both**2
    main[2:] += scale * after**2
    first = np.concatenate([-scale * before * both, zero, zero])
    first[1:-1] -= scale * after * both
    second = np.concatenate([scale * before * after, zero, zero])
    # A stretch of one or two epochs has no second difference; a hint of stiffness keeps the matrix regular.
    return main + 1e-12, first, second
