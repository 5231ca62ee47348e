"""Statistics over paired runs, by the textbook: does a treatment beat its baseline by more than the seeds' spread?"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

_FloatArray = NDArray[np.float64]

# Differences below this fraction of the values are rounding of the subtraction, not results.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class PairedComparison:
    """A treatment against its baseline over paired runs; larger values are better.

    Attributes:
        n: Number of pairs, at least 2.
        mean_baseline: Mean of the baseline's values, in their unit, as all that follows.
        sd_baseline: Standard deviation (n − 1) of the baseline's values.
        mean_treatment: Mean of the treatment's values.
        sd_treatment: Standard deviation (n − 1) of the treatment's values.
        mean_difference: Mean of treatment − baseline.
        interval_low: Lower end of the mean difference's interval.
        interval_high: Upper end of it.
        p_value: Two-sided p of the paired t-test, in [0, 1].
        confidence: Confidence level of the interval, in (0, 1).
    """

    n: int
    mean_baseline: float
    sd_baseline: float
    mean_treatment: float
    sd_treatment: float
    mean_difference: float
    interval_low: float
    interval_high: float
    p_value: float
    confidence: float = 0.95

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval_low > 0 or self.interval_high < 0

    def to_dict(self) -> dict[str, float | int | None]:
        """Return plain values for JSON, NaN as None."""
        return {k: None if math.isnan(v) else v for k, v in vars(self).items()}

    def verdict(
        self, *, scale: float = 1.0, unit: str = "", adjusted_p: float | None = None
    ) -> str:
        """Say in one sentence whether the treatment helps.

        Args:
            scale: Factor that turns the values into `unit`, as 100 for fractions in pp.
            unit: Unit to print behind the numbers; empty prints none.
            adjusted_p: p after adjusting for several comparisons; where given, it decides too.
        """
        suffix = f" {unit}" if unit else ""
        if math.isnan(self.p_value):
            return (
                f"All {self.n} differences are {scale * self.mean_difference:+.3g}{suffix}: without a spread "
                "nothing can be said of chance; run more seeds."
            )
        low, high = (f"{scale * end:+.3g}" for end in (self.interval_low, self.interval_high))
        several = adjusted_p is not None and adjusted_p != self.p_value
        adjusted = f", adjusted {adjusted_p:.2g}" if several else ""
        evidence = (
            f"({self.confidence:.0%} interval {low} to {high}{suffix}, "
            f"{self.n} pairs, p = {self.p_value:.2g}{adjusted})"
        )
        size = f"{scale * abs(self.mean_difference):.3g}{suffix}"
        if self.mean_difference == 0:
            return f"There is no difference on average {evidence}."
        kind = "gain" if self.mean_difference > 0 else "loss"
        if not self.distinguishable or (several and float(adjusted_p or 0) > 1 - self.confidence):
            return f"The {kind} of {size} is not distinguishable from zero {evidence}."
        return f"There is a {kind} of {size} {evidence}."


def mean_sd(values: ArrayLike) -> tuple[float, float]:
    """Compute mean and sample standard deviation (n − 1) of (n,) finite numbers; that of one value is NaN.

    Raises:
        ValueError: If the values are empty, not one-dimensional or not finite.

    >>> mean_sd([1.0, 3.0])
    (2.0, 1.4142135623730951)
    """
    array = _checked("values", values)
    spread = float(array.std(ddof=1)) if len(array) > 1 else math.nan
    return float(array.mean()), spread


def paired_comparison(
    baseline: ArrayLike, treatment: ArrayLike, confidence: float = 0.95
) -> PairedComparison:
    """Compare two arms run by run: mean difference, Student's interval and paired t-test.

    d̄ ± t(1 − (1 − confidence)/2, n − 1) · s_d/√n over the differences d = treatment − baseline.
    Differences that are all equal show no spread: they have an interval of width zero and p = 1 where
    they are 0, and otherwise neither interval nor p (NaN), since few coarse values are equal by chance.

    Args:
        baseline: (n,) values, n at least 2; entry i and the treatment's share seed and data order.
        treatment: (n,) values in the same unit and order.
        confidence: Level of the interval in (0, 1).

    Raises:
        ValueError: If there are fewer than two pairs, the arms differ in length, a value is not
            finite, or `confidence` is outside (0, 1).

    >>> paired_comparison([90.0, 91.0], [91.0, 93.0]).verdict(unit="pp").split(" (")[0]
    'The gain of 1.5 pp is not distinguishable from zero'
    """
    base, treated = _checked("baseline", baseline), _checked("treatment", treatment)
    if len(base) != len(treated) or len(base) < 2:
        raise ValueError(
            f"expected at least 2 pairs, got {len(base)} baseline and {len(treated)} treatment "
            "values; run both arms with the same two or more seeds"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}; 0.95 is usual")
    difference, error = _mean_and_error(base, treated)
    degrees = len(base) - 1
    margin = float(stdtrit(degrees, 0.5 + confidence / 2)) * error
    if error:
        p_value = float(2 * stdtr(degrees, -abs(difference) / error))
    else:
        margin, p_value = (0.0, 1.0) if difference == 0 else (math.nan, math.nan)
    ends = difference - margin, difference + margin
    means = *mean_sd(base), *mean_sd(treated)
    return PairedComparison(len(base), *means, difference, *ends, p_value, confidence)


def holm(p_values: ArrayLike) -> _FloatArray:
    """Adjust p-values for the number of comparisons by Holm's step-down method.

    Holm (1979): the i-th smallest of m is multiplied by m − i + 1, made monotone and capped at 1,
    which is valid whatever the dependence between the comparisons.

    Args:
        p_values: (m,) p-values in [0, 1]; NaN marks a comparison that was made but shows no spread.

    Returns:
        (m,) adjusted p-values in the order given; NaN stays NaN and counts into m as p = 1.

    Raises:
        ValueError: If a p-value is outside [0, 1] or the array is not one-dimensional.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    given = np.asarray(p_values, dtype=np.float64)
    values = np.where(np.isnan(given), 1.0, given)
    if values.ndim != 1 or np.any((values < 0) | (values > 1)):
        raise ValueError(f"expected a list of p-values in [0, 1], got {given.tolist()}")
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * values[order]))
    return np.where(np.isnan(given), np.nan, adjusted)


def _checked(name: str, values: ArrayLike) -> _FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all():
        raise ValueError(f"expected {name} as a list of finite numbers, got {array.tolist()}")
    return array


def _mean_and_error(base: _FloatArray, treated: _FloatArray) -> tuple[float, float]:
    """Return the mean difference and its standard error, without the subtraction's rounding."""
    differences = treated - base
    rounding = _ROUNDING * max(np.abs(base).max(), np.abs(treated).max())
    mean = float(differences.mean())
    if np.ptp(differences) <= rounding:
        return (0.0 if abs(mean) <= rounding else mean), 0.0
    return mean, float(differences.std(ddof=1) / math.sqrt(len(differences)))
