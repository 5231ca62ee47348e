"""The verdict on a loss curve: has it converged, since when, how sure, and what to do.

Unlike the published convergence epoch E_K, which trails a flat curve because it reads a recursive average
(`phases.py`), the epoch given here has no lag: it is read from a two-sided fit of the trend (`trend.py`).
Not in the papers.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from fmce.convergence.banded import Array
from fmce.convergence.smoothing import checked_sequence
from fmce.convergence.trend import Trend, block_means, epochs_until, fit_trend, settled_epoch

State = Literal["converged", "at_rest", "improving", "overfitting", "rising", "undecided"]

# Share of the fitted range that counts as rest per epoch, where no threshold is given.
RELATIVE_THRESHOLD = 1e-3
# The interval runs from where the probability of moving falls below the first to where it falls below the second.
# Set on simulated curves so that it covers the true epoch in 90 % of them (experiments/verdict.py).
_INTERVAL = (0.89, 0.14)
_FEWEST_EPOCHS, _LONGEST = 8, 1000
# Epochs at rest that a verdict needs, and how sure it must be that the curve moves or rests at its end.
_REST_EPOCHS, _SURE = 3, 0.8
# A rate that rises by more or falls to less than these shares of the one before is a jump, not a schedule.
_JUMP_UP, _JUMP_DOWN = 1.25, 0.7
# Below this share of its peak the learning rate itself may hold the loss still.
_SCHEDULE_SHARE = 0.25
# A rate this much lower than at the epoch of rest has been tried.
_LOWER_RATE = 0.5
# Small changes that add up to this share of the trend's range are no rest.
_CREPT = 0.1
_HORIZONS = (1, 5, 20)


@dataclass(frozen=True)
class Verdict:
    """What a loss curve says. Epochs count from 1; losses and changes are in the curve's unit.

    Args:
        state: `converged`; `at_rest` at this learning rate, which a lower one may end; `improving`;
            `overfitting`, where the validation loss rises while the training goes on; `rising`; or
            `undecided`.
        epoch: First epoch from which the expected change per epoch stays at or below the threshold; of
            `overfitting`, the epoch of the lowest validation loss; None where the curve has no such epoch.
        low, high: 90 % interval of `epoch`; high is None where the curve may still be moving at its end.
        because: What decided it.
        advice: What to do next.
        threshold: µ, the change per epoch that counts as rest.
        noise: Standard deviation of the noise, as a share of the loss; of a curve with values of 0 or below
            in the curve's unit.
        expected_changes: Epochs ahead (1, 5, 20) to the expected change of the loss until then.
        more_epochs: Of `improving`, epochs until the expected change per epoch falls to the threshold, if the
            trend continues; else None.
        gaps: Epochs without a value.
        trend: The fitted loss of each epoch.
    """

    state: State
    epoch: int | None
    low: int | None
    high: int | None
    because: str
    advice: str
    threshold: float
    noise: float
    expected_changes: dict[int, float]
    more_epochs: int | None = None
    gaps: int = 0
    trend: tuple[float, ...] = field(default=(), repr=False)

    @property
    def lines(self) -> tuple[str, str, str]:
        """The verdict in three lines: the state with its epoch, what decided it, what to do."""
        return f"verdict: {self._headline()}", f"because: {self.because}", f"advice:  {self.advice}"

    def _headline(self) -> str:
        if self.epoch is None:
            since = ""
        else:
            ends = f"{self.low} to {'?' if self.high is None else self.high}"
            since = f" {self.epoch}" + ("" if self.low == self.high else f" ({ends})")
        return {
            "converged": f"converged at epoch{since}",
            "at_rest": f"at rest since epoch{since} at this learning rate; a lower one may continue",
            "improving": "still improving",
            "overfitting": f"overfitting since epoch{since}",
            "rising": "the loss is rising",
            "undecided": "undecided" + (f"; at rest since epoch{since}" if since else ""),
        }[self.state]

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON values, without the fitted trend."""
        return {
            "epoch": self.epoch,
            "low": self.low,
            "high": self.high,
            "state": self.state,
            "because": self.because,
            "advice": self.advice,
            "threshold": self.threshold,
            "noise": self.noise,
            "expected_changes": {str(k): v for k, v in self.expected_changes.items()},
            "more_epochs": self.more_epochs,
            "gaps": self.gaps,
        }


def judge_curve(
    losses: ArrayLike,
    learning_rates: ArrayLike | None = None,
    validation: ArrayLike | None = None,
    threshold: float | None = None,
    *,
    window: int | None = None,
) -> Verdict:
    """Judge a loss curve: converged, at rest, improving, overfitting or undecided.

    The trend is fitted to the log loss (to the loss itself where values are 0 or negative) with noise
    estimated from the curve. The epoch is the first from which the probability that the expected loss changes
    by more than the threshold per epoch stays below one half. Learning rates tell rest from rest at this
    rate, and mark the epochs at which the curve may break.

    Args:
        losses: (M,) one per epoch, any unit, any sign; NaN marks an epoch without a value.
        learning_rates: (M,) one per epoch, ≥ 0. Without them breaks are looked for in the curve, and a
            plateau before a rate drop cannot be told from convergence.
        validation: (M,) validation losses, NaN where there are none; they decide overfitting.
        threshold: µ, change per epoch that counts as rest; by default 1e-3 of the trend's range.
        window: Judge the last epochs only, so that the cost per epoch of a running training does not grow.

    Returns:
        The verdict. Scaling losses and threshold alike changes no epoch.

    Raises:
        ValueError: If there is no value, a value is infinite, lengths differ, a rate is negative, or the
            threshold is not positive.

    >>> import numpy as np
    >>> verdict = judge_curve(2.3 * np.exp(-np.arange(60) / 3) + 0.05, threshold=2e-3)
    >>> verdict.state, verdict.epoch
    ('converged', 19)
    """
    curve = checked_sequence(losses, "losses", gaps=True)
    rates = (
        None if learning_rates is None else _checked_like(learning_rates, "learning_rates", curve)
    )
    others = None if validation is None else _checked_like(validation, "validation", curve)
    if rates is not None and not (np.isfinite(rates).all() and (rates >= 0).all()):
        raise ValueError("learning_rates must be finite and not negative, one per epoch")
    if threshold is not None and not 0 < threshold < np.inf:
        raise ValueError(f"threshold must be a positive number; got {threshold!r}")
    if window is not None and window < _FEWEST_EPOCHS:
        raise ValueError(f"window must be at least {_FEWEST_EPOCHS} epochs; got {window!r}")
    skipped = max(curve.size - window, 0) if window is not None else 0
    return _Judge(curve, rates, others, threshold, skipped).verdict()


class _Judge:
    """One curve while it is judged; its methods are the steps in order."""

    def __init__(
        self,
        curve: Array,
        rates: Array | None,
        validation: Array | None,
        threshold: float | None,
        skipped: int,
    ) -> None:
        # Epochs after the last value say nothing; gaps before it are allowed.
        length = int(np.flatnonzero(np.isfinite(curve))[-1]) + 1
        self.skipped = min(skipped, length - 1)
        part = slice(self.skipped, length)
        self.gaps = int(np.isnan(curve[part]).sum())
        # Of a very long curve, means of so many epochs are judged; epochs, changes and µ stay per epoch.
        self.end, self.length = length, length - self.skipped
        self.block = -(-self.length // _LONGEST)
        self.curve, self.threshold = block_means(curve[part], self.block), threshold
        self.rates = None if rates is None else rates[part][:: self.block]
        self.peak = None if rates is None else float(rates[:length].max())
        self.validation = None if validation is None else block_means(validation[part], self.block)
        # The range of what came before the window belongs to the default threshold.
        self.whole = curve[:length]

    def verdict(self) -> Verdict:
        """Return the verdict."""
        count = int(np.isfinite(self.curve).sum())
        if count < _FEWEST_EPOCHS:
            return self._short(count)
        trend = fit_trend(self.curve, self._jumps(), rates=self.rates, horizon=max(_HORIZONS))
        if self.threshold is None:
            self.threshold = RELATIVE_THRESHOLD * self._range(trend)
        if self.threshold == 0:
            return self._constant()
        overfitting = self._overfitting(trend)
        return overfitting or self._judged(trend, self.threshold)

    def _jumps(self) -> list[int]:
        if self.rates is None:
            return []
        with np.errstate(divide="ignore", invalid="ignore"):
            share = self.rates[1:] / self.rates[:-1]
        # A smooth schedule ends in large shares of tiny rates, and a warm-up starts with them: only a
        # jump that stands alone in its direction is one.
        alone = []
        for jumped in (share > _JUMP_UP, share < _JUMP_DOWN):
            near = np.convolve(jumped, [1, 0, 1], mode="same") > 0
            alone += (np.flatnonzero(jumped & ~near) + 1).tolist()
        return sorted(j for j in alone if 3 <= j <= len(self.curve) - 2)

    def _range(self, trend: Trend) -> float:
        path = trend.path[: len(self.curve)]
        seen = np.concatenate([self.whole[: self.skipped], path])
        return float(np.nanmax(seen) - np.nanmin(seen))

    def _short(self, count: int) -> Verdict:
        return self._unknown(
            f"too short: {count} epochs with a loss; a verdict needs {_FEWEST_EPOCHS}",
            "keep training",
        )

    def _constant(self) -> Verdict:
        return self._unknown(
            "the loss never changes",
            "check that the model is trained: learning rate, optimizer, frozen parameters",
        )

    def _unknown(self, because: str, advice: str) -> Verdict:
        return Verdict(
            *("undecided", None, None, None, because, advice),
            threshold=self.threshold or 0.0,
            noise=0.0,
            expected_changes={},
            gaps=self.gaps,
        )

    def _overfitting(self, trend: Trend) -> Verdict | None:
        """Return the verdict of a validation loss that has risen for good; None otherwise."""
        if self.validation is None or np.isfinite(self.validation).sum() < _FEWEST_EPOCHS:
            return None
        length = int(np.flatnonzero(np.isfinite(self.validation))[-1]) + 1
        fitted = fit_trend(self.validation[:length], self._jumps(), horizon=1)
        path = fitted.path[:length]
        lowest = int(path.argmin())
        rise = path[-1] - path[lowest]
        scale = path[lowest] if fitted.logarithmic else 1.0
        # The rise must stand out from the noise and from what counts as rest.
        if rise < max(3 * fitted.noise * scale / np.sqrt(5), (self.threshold or 0) * 5):
            return None
        near = np.flatnonzero(path <= path[lowest] + fitted.noise * scale / np.sqrt(5)) + 1
        at = self._epoch(lowest + 1)
        return self._made(
            trend,
            "overfitting",
            (lowest + 1, int(near[0]), int(near[-1])),
            f"the validation loss is lowest at epoch {at} and has risen by {rise:.3g} since "
            f"(noise {fitted.noise * scale:.2g})",
            f"stop, and take the checkpoint of epoch {at}; regularise or add data before training longer",
        )

    def _judged(self, trend: Trend, threshold: float) -> Verdict:
        both = trend.step_probabilities(threshold * self.block)
        falls, rises = (p[: len(self.curve) - 1] for p in both)
        moving = falls + rises
        first, last = _INTERVAL
        low, epoch, high = (settled_epoch(moving >= p) for p in (first, 0.5, last))
        end = float(moving[-_REST_EPOCHS:].mean())
        at = (epoch, low, high if high <= len(self.curve) else None)
        if max(falls[-1], rises[-1]) > _SURE:
            return self._in_motion(trend, threshold)
        if end > 1 - _SURE or len(self.curve) - epoch < _REST_EPOCHS - 1:
            return self._made(
                trend,
                "undecided",
                at if epoch <= len(self.curve) else (None, None, None),
                f"noise ({trend.noise:.2g}) hides whether the change per epoch exceeds {threshold:.2g}; at the end "
                f"it does with probability {end:.2f}",
                "train a few more epochs, or raise the threshold",
            )
        state, because, advice = self._at_rest(epoch, trend, threshold)
        return self._made(trend, state, at, because, advice)

    def _in_motion(self, trend: Trend, threshold: float) -> Verdict:
        count = len(self.curve)
        change = float(trend.path[count] - trend.path[count - 1]) / self.block
        per_epoch = f"the expected change is {change:+.2g} per epoch; rest is {threshold:.2g}"
        if change > 0:
            return self._made(
                trend,
                "rising",
                (None, None, None),
                per_epoch,
                "lower the learning rate, or check data and gradients",
            )
        more = epochs_until(trend.path[count - 1], change, threshold, trend.logarithmic)
        return self._made(
            trend,
            "improving",
            (None, None, None),
            per_epoch,
            "keep training"
            if more is None
            else f"train about {more} more epochs, if the decay continues",
            more_epochs=more,
        )

    def _at_rest(self, epoch: int, trend: Trend, threshold: float) -> tuple[State, str, str]:
        """Return state, reason and advice of a curve at rest since `epoch` (1-based within the curve)."""
        path = trend.path[: len(self.curve)]
        fell = float(path[epoch - 1] - path[-1])
        if fell > _CREPT * np.ptp(path):
            return (
                "undecided",
                f"no change since exceeds {threshold:.2g} per epoch, but together they lowered the loss by {fell:.2g}",
                "lower the threshold, which is too coarse for this curve",
            )
        if self.rates is None or not self.peak:
            return (
                "converged",
                "the expected change per epoch stays below the threshold; without learning rates a plateau "
                "before a rate drop would look the same",
                "stop; pass the learning rates to be sure",
            )
        since = self.rates[epoch - 1 :]
        then, lowest = float(since[0]), float(since.min())
        share = then / self.peak
        if lowest <= _LOWER_RATE * then and share >= _SCHEDULE_SHARE:
            return (
                "converged",
                f"the loss came to rest at {share:.2g} of the peak learning rate and changed by {-fell:+.2g} in total "
                f"while the rate went down to {lowest / self.peak:.2g} of it",
                "stop",
            )
        if lowest > _LOWER_RATE * then:
            return (
                "at_rest",
                f"the learning rate has stayed at {share:.0%} of its peak since then, and no lower one was tried",
                "lower the learning rate, or stop if this loss is good enough",
            )
        return (
            "undecided",
            f"schedule: the loss came to rest only when the learning rate was down to {share:.2g} of its peak",
            "restart with a higher rate or train with a longer schedule to see whether more is possible",
        )

    def _made(
        self,
        trend: Trend,
        state: State,
        at: tuple[int | None, int | None, int | None],
        because: str,
        advice: str,
        more_epochs: int | None = None,
    ) -> Verdict:
        """Return the verdict; at: epoch and interval, counted from 1 in (blocks of) the curve that was judged."""
        count = len(self.curve)
        if self.gaps:
            because += f"; {self.gaps} epochs have no value"
        epoch, low, high = at
        path = np.interp(np.arange(self.length) / self.block, np.arange(count), trend.path[:count])
        ahead = np.interp(
            count - 1 + np.array(_HORIZONS) / self.block, np.arange(len(trend.path)), trend.path
        )
        return Verdict(
            state,
            self._epoch(epoch),
            self._epoch(low),
            None if high is None else min(self._epoch(high) + self.block - 1, self.end),
            because=because,
            advice=advice,
            threshold=float(self.threshold or 0),
            noise=trend.noise,
            expected_changes=dict(
                zip(_HORIZONS, (ahead - trend.path[count - 1]).tolist(), strict=True)
            ),
            more_epochs=more_epochs,
            gaps=self.gaps,
            trend=tuple(path.tolist()),
        )

    def _epoch(self, index: int | None) -> Any:
        """Return the first epoch of a block, counted from 1 in the whole curve; None of none."""
        return None if index is None else self.skipped + (index - 1) * self.block + 1


def _checked_like(values: ArrayLike, name: str, curve: Array) -> Array:
    array = checked_sequence(values, name, gaps=True)
    if array.size != curve.size:
        raise ValueError(f"{name} must hold one value per epoch, {curve.size}; got {array.size}")
    return array
