"""Smooth a loss sequence before its convergence is judged (FMCE, section IV-B, first equation)."""

import math
from numbers import Real
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Smoothing = Literal["ema", "debiased_ema", "two_tap", "none"]
SMOOTHINGS: tuple[str, ...] = get_args(Smoothing)
_PART = 4096  # losses averaged at one time


def smooth_losses(
    losses: ArrayLike, decay: float = 0.85, method: Smoothing = "ema"
) -> NDArray[np.float64]:
    """Smooth a loss sequence.

    With α = ``decay`` and L̃_1 = L_1 (FMCE, section IV-B):

    - ``ema``: L̃_m = α·L̃_{m−1} + (1−α)·L_m, the recursive average.
    - ``debiased_ema``: the same average with its weights divided by their sum so far, so that the
      first epochs do not count more than their share.
    - ``two_tap``: L̃_m = α·L_{m−1} + (1−α)·L_m, as printed in the paper.
    - ``none``: the losses as they are.

    ``decay`` is the weight of the past. It is one minus the ``alpha`` of pandas' ``ewm``.

    Args:
        losses: M losses in epoch order, finite; any unit (the paper: nats).
        decay: Weight of the past, 0 ≤ α < 1.
        method: One of the four names above.

    Returns:
        M float64 values in the unit of ``losses``, each within the range of the losses so far.

    Raises:
        ValueError: If ``losses`` is not a non-empty 1-d sequence of finite numbers, ``decay`` is
            outside [0, 1), or ``method`` is unknown.

    >>> smooth_losses([2.0, 1.0, 1.0], decay=0.5).tolist()
    [2.0, 1.5, 1.25]
    """
    values = checked_sequence(losses, "losses")
    alpha = checked_decay(decay)
    if method not in SMOOTHINGS:
        raise ValueError(f"method must be one of {', '.join(SMOOTHINGS)}; got {method!r}")
    if method == "none":
        return values.copy()
    if method == "two_tap":  # not given in the paper: L̃_1, which has no predecessor, is L_1
        before, after = values[:-1], values[1:]
        mixed = np.clip(
            alpha * before + (1 - alpha) * after,
            np.minimum(before, after),
            np.maximum(before, after),
        )
        return np.concatenate([values[:1], mixed])
    smoothed, done, past = values.copy(), 1, 1.0
    if method == "debiased_ema":
        # `past` is α^0 + … + α^(m−1), the weight of all losses up to here; from where it no longer grows,
        # each loss has the same weight.
        while done < values.size and (total := 1 + alpha * past) != past:
            weight, past = alpha * past / total, total
            smoothed[done] = _mix(smoothed[done - 1], smoothed[done], weight)
            done += 1
        alpha = alpha * past / (1 + alpha * past)
    # From here on losses are all the same; 0 where all are.
    flat = values.size - int(np.argmax(values[::-1] != values[-1]) or values.size)
    for start in range(done, values.size, _PART):
        stop = min(start + _PART, values.size)
        _average(smoothed, start, stop, alpha)
        if start > flat and smoothed[stop - 1] == smoothed[stop - 2]:
            smoothed[stop:] = smoothed[stop - 1]
            break
    return smoothed


def _average(smoothed: NDArray[np.float64], start: int, stop: int, weight: float) -> None:
    """Replace losses by their recursive average, from the element `start`, which has a predecessor, to `stop`."""
    losses, own = smoothed[start:stop].copy(), 1 - weight
    previous = first = float(smoothed[start - 1])
    # The loop is the time that smoothing takes.
    terms = (own * losses).tolist()
    smoothed[start:stop] = [previous := weight * previous + term for term in terms]
    before, means = smoothed[start - 1 : stop - 1], smoothed[start:stop]
    lowest, highest = np.minimum(before, losses), np.maximum(before, losses)
    if ((lowest <= means) & (means <= highest)).all():
        return
    previous = first
    for index, loss in enumerate(losses.tolist(), start):
        smoothed[index] = previous = _mix(previous, loss, weight)


def _mix(old: float, new: float, weight: float) -> float:
    # Rounding may push the mean outside its two values. A flat curve would then creep, and its
    # CQI would not be exactly 0.
    mean = weight * old + (1 - weight) * new
    return min(max(mean, min(old, new)), max(old, new))


def checked_sequence(values: ArrayLike, name: str, *, gaps: bool = False) -> NDArray[np.float64]:
    """Read a sequence of numbers, called `name` in errors, as a finite float64 vector of at least one element.

    gaps: Whether NaN may mark an epoch without a value; one value at least is needed.

    Raises:
        ValueError: Text, booleans, complex numbers, ragged or nested lists, nothing at all, or a
            value that is not finite (named with its epoch).
    """
    try:
        array = np.asarray(values)
    except Exception as error:  # foreign array types raise whatever they like here
        raise ValueError(f"{name} must be a 1-d sequence of numbers; got {error}") from error
    if array.ndim != 1:
        raise ValueError(
            f"{name} must be 1-d, one number per epoch; got shape {array.shape}: pass a flat list or array"
        )
    if array.size == 0:
        raise ValueError(f"{name} must hold at least one number; got an empty sequence")
    if array.dtype.kind not in "fiu":  # numpy would parse text as numbers without asking
        raise ValueError(
            f"{name} must be real numbers; got {array.dtype}, first a {type(array[0]).__name__}: "
            "convert them to float first"
        )
    with np.errstate(over="ignore"):  # a wider float may not fit; the next check reports it
        vector = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(vector) & ~(gaps & np.isnan(vector)))
    if not bad.size and np.isnan(vector).all():
        raise ValueError(f"{name} must have a value in at least one epoch; all are NaN")
    if bad.size:
        raise ValueError(
            f"{name} must be finite; got {float(vector[bad[0]])} at epoch {bad[0] + 1}: "
            "cut the sequence before it, or find out why training diverged"
        )
    return vector


def checked_decay(decay: object) -> float:
    """Return the decay, the weight of the past, as a float.

    Raises:
        ValueError: If it is not a number, or outside [0, 1).
    """
    value = float_or_nan(decay)
    # The paper allows α = 1, with which the average would never leave its first value.
    if not 0 <= value < 1:
        raise ValueError(
            f"decay must be a number with 0 <= decay < 1; got {decay!r}: "
            "it is the weight of the past (0.85 in the paper), not pandas' alpha"
        )
    return value


def float_or_nan(value: object) -> float:
    """Return a real number as a float, and NaN for anything else, so that one check refuses both.

    Booleans, text and numbers too large for a float are NaN.

    >>> float_or_nan(1), float_or_nan("1")
    (1.0, nan)
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan
