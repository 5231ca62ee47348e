"""Smooth a loss sequence before its convergence is judged (FMCE, section IV-B, first equation)."""

import math
from collections.abc import Iterator
from itertools import pairwise
from numbers import Real
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Smoothing = Literal["ema", "debiased_ema", "two_tap", "none"]
SMOOTHINGS: tuple[str, ...] = get_args(Smoothing)
# Losses averaged at one time; fewer where the limits hold somewhere, or the rest is flat.
_PART, _SMALL_PART = 32768, 4096


def smooth_losses(
    losses: ArrayLike,
    decay: float = 0.85,
    method: Smoothing = "ema",
    *,
    known: NDArray[np.float64] | None = None,
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
        known: What ``ema`` gives for these losses, if it is there: ``debiased_ema`` mostly ends alike, and copies
            that end. The result is the same, in less time.

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
    # Averages of one weight stay together once they have met.
    other = known if known is not None and alpha == decay else smoothed
    while done < values.size:
        start = done
        short = start >= flat or other is not smoothed
        done = min(start + (_SMALL_PART if short else _PART), values.size)
        _average(smoothed, start, done, alpha)
        if start >= flat and smoothed[done - 1] == smoothed[done - 2]:
            smoothed[done:] = smoothed[done - 1]
            break
        if other is not smoothed and smoothed[done - 1] == other[done - 1]:
            smoothed[done:] = other[done:]
            break
    return smoothed


def _average(smoothed: NDArray[np.float64], start: int, stop: int, weight: float) -> None:
    """Replace losses by their recursive average, from the element `start`, which has a predecessor, to `stop`."""
    losses, previous = smoothed[start:stop].copy(), float(smoothed[start - 1])
    smoothed[start:stop] = _unlimited(previous, (1 - weight) * losses, weight)
    before, means = smoothed[start - 1 : stop - 1], smoothed[start:stop]
    lowest, highest = np.minimum(before, losses), np.maximum(before, losses)
    if ((lowest <= means) & (means <= highest)).all():
        return
    smoothed[start:stop] = losses
    if stop - start > _SMALL_PART:
        for low in range(start, stop, _SMALL_PART):
            _average(smoothed, low, min(low + _SMALL_PART, stop), weight)
        return
    for index, loss in enumerate(losses.tolist(), start):
        smoothed[index] = previous = _mix(previous, loss, weight)


def _unlimited(first: float, terms: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """Return the recursive average after `first` without its limits, the same bits whichever way is taken."""
    # After so many epochs, no bit of what was before is left.
    memory = math.ceil(-64 / math.log2(weight)) if weight > 0 else 1
    if terms.size >= 16 * memory:
        means = _side_by_side(first, terms, weight, memory)
        means[0] = weight * first + terms[0]
        if (weight * means[:-1] + terms[1:] == means[1:]).all():
            return means
    return np.fromiter(_one_by_one(first, terms.tolist(), weight), np.float64, terms.size)


def _one_by_one(previous: float, terms: list[float], weight: float) -> Iterator[float]:
    for term in terms:
        previous = weight * previous + term
        yield previous


def _side_by_side(
    first: float, terms: NDArray[np.float64], weight: float, memory: int
) -> NDArray[np.float64]:
    """Average pieces of `memory` epochs at a time, each begun one piece early at 0; nearly always exact."""
    pieces = -(-terms.size // memory)
    padded = np.zeros((pieces + 1) * memory)
    padded[memory : memory + terms.size] = terms
    # A row holds an epoch of every piece, (2·memory, pieces).
    rows = np.concatenate(
        [padded[:-memory].reshape(-1, memory).T, padded[memory:].reshape(-1, memory).T]
    )
    decayed = np.empty(pieces)
    for number, (before, row) in enumerate(pairwise(rows), start=1):
        if number == memory:
            before[0] = first
        np.multiply(before, weight, out=decayed)
        np.add(row, decayed, out=row)
    return rows[memory:].T.ravel()[: terms.size]


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
        vector = array.astype(np.float64, copy=False)
    finite = np.isfinite(vector)
    if finite.all():
        return vector
    bad = np.flatnonzero(~finite & ~(gaps & np.isnan(vector)))
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
