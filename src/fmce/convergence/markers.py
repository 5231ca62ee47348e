"""Settings of the phases, and the bare algorithm that locates their markers (FMCE, sections IV-B and IV-C)."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmce.convergence.cqi import checked_count, cqi
from fmce.convergence.smoothing import (
    SMOOTHINGS,
    Smoothing,
    checked_decay,
    float_or_nan,
    smooth_losses,
)

# Not given in the paper: logs are taken no lower than this share of the largest smoothed loss, so
# that a loss of exactly 0 does not swallow all phases.
LOG_FLOOR = 1e-12
# Not given in the paper: slack for rounding when a curve meets a level exactly.
_LEVEL_SLACK = 1 - 1e-9


class NoPhasesError(ValueError):
    """A well-formed loss sequence that has no phases under the given configuration (yet)."""


@dataclass(frozen=True)
class PhaseConfig:
    """Settings that define convergence and phases (FMCE, sections IV-B, IV-C and V-B).

    Args:
        num_phases: K, at least 1; 10 in the paper.
        threshold: µ, above 0, in the unit of the losses per epoch; the paper uses 1e-4 for 10
            classes and 1e-3 for 100.
        relative_threshold: A share in (0, 1) of max L̃ − min L̃ that replaces ``threshold``, or
            None. Use it for a loss of another scale than cross-entropy's.
        smoothing: ``ema``, ``debiased_ema``, ``two_tap`` or ``none``; see ``smooth_losses``.
        decay: α, weight of the past in the smoother, 0 ≤ α < 1.
        window: B, epochs in the mean of CQI, at least 1.
        if_not_converged: ``error``, or ``last`` to take the last epoch as convergence epoch.

    Raises:
        ValueError: If a value is out of its range; the message names the choices.
    """

    num_phases: int = 10
    threshold: float = 1e-4
    relative_threshold: float | None = None
    smoothing: Smoothing = "ema"
    decay: float = 0.85
    window: int = 5  # Not given in the paper: B.
    if_not_converged: Literal["error", "last"] = "error"

    def __post_init__(self) -> None:
        # NumPy scalars become Python's, so that equal configs look equal in JSON too.
        self._set("num_phases", checked_count(self.num_phases, "num_phases"))
        self._set("threshold", _checked_positive(self.threshold, "threshold", math.inf))
        if self.relative_threshold is not None:
            share = _checked_positive(self.relative_threshold, "relative_threshold", 1.0)
            self._set("relative_threshold", share)
        self._set("decay", checked_decay(self.decay))
        self._set("window", checked_count(self.window, "window"))
        known = {"smoothing": SMOOTHINGS, "if_not_converged": ("error", "last")}
        for name, choices in known.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")

    def _set(self, name: str, value: float) -> None:
        object.__setattr__(self, name, value)  # the way past `frozen` in __post_init__


class Located(NamedTuple):
    """Markers on one curve, and the sequences they were found on, in units of a power of two."""

    markers: tuple[int, ...]  # E_1 … E_K
    start_epoch: int  # E_0
    converged: bool
    exponent: int  # the unit's
    unit_smoothed: NDArray[np.float64]
    unit_cqi: NDArray[np.float64]

    @property
    def smoothed(self) -> NDArray[np.float64]:
        """L̃ in the curve's own unit."""
        return _times_two_to_the(self.exponent, self.unit_smoothed)

    @property
    def cqi(self) -> NDArray[np.float64]:
        """CQI in the curve's own unit."""
        return _times_two_to_the(self.exponent, self.unit_cqi)


def locate_markers(
    losses: NDArray[np.float64], config: PhaseConfig, known: NDArray[np.float64] | None = None
) -> Located:
    """Find E_0, E_K and the markers between them in L_1 … L_M, finite and ≥ 0 (FMCE, sections IV-B and IV-C).

    Args:
        losses: The curve.
        config: Settings.
        known: `unit_smoothed` that these losses and this decay gave with smoothing "ema", if it is there.

    Raises:
        NoPhasesError: If the curve has no phases under these settings; the message says why.

    >>> curve = np.array([8.0, 4.0, 2.0, 1.0, 1.0, 1.0])
    >>> config = PhaseConfig(num_phases=3, threshold=0.5, smoothing="none", window=1)
    >>> locate_markers(curve, config).markers
    (2, 3, 5)
    """
    if losses.size <= config.num_phases:
        raise NoPhasesError(
            f"{_phases_need(config.num_phases)} {config.num_phases + 1} epochs; got {losses.size}: train longer"
            + (" or lower num_phases" if config.num_phases > 1 else "")
        )
    if not losses.any():
        raise NoPhasesError("all losses are 0, so nothing converges: check what was logged")
    # In units of a power of two near the largest loss every step is the same at every scale, to
    # the last bit, and neither the largest nor the smallest floats overflow or lose digits.
    exponent = int(np.frexp(losses.max())[1])
    unit = _times_two_to_the(-exponent, losses)
    smoothed = smooth_losses(unit, config.decay, config.smoothing, known=known)
    indicator = cqi(smoothed, config.window)
    threshold = float(_times_two_to_the(-exponent, config.threshold))
    if config.relative_threshold is not None:
        threshold = config.relative_threshold * float(smoothed.max() - smoothed.min())
    end, converged = _convergence_epoch(indicator, threshold, config)
    start = int(np.argmax(unit)) + 1
    return Located(
        markers=_place_markers(smoothed, start, end, config.num_phases),
        start_epoch=start,
        converged=converged,
        exponent=exponent,
        unit_smoothed=smoothed,
        unit_cqi=indicator,
    )


def _convergence_epoch(
    indicator: NDArray[np.float64], threshold: float, config: PhaseConfig
) -> tuple[int, bool]:
    """Return E_K and whether CQI met the threshold there; the curve has at least two epochs."""
    peak = int(np.argmax(indicator[1:])) + 1  # the first epoch has none
    if not indicator[peak] > 0:
        raise NoPhasesError("the loss never changes, so it has no phases: check what was logged")
    if not indicator[peak] > threshold:
        raise NoPhasesError(
            f"CQI is never above the threshold ({_setting(config)}): its maximum, at epoch "
            f"{peak + 1}, is {indicator[peak] / threshold if threshold else 0:.3g} times the "
            "threshold; lower the threshold, or give a relative_threshold"
        )
    # Falling below means from above: a flat start or a warm-up before the maximum does not count.
    below = np.flatnonzero(indicator[peak + 1 :] <= threshold)
    if below.size:
        return peak + 2 + int(below[0]), True
    if config.if_not_converged == "last":
        return indicator.size, False
    raise NoPhasesError(
        f"not converged: after its maximum at epoch {peak + 1} CQI stays above the threshold "
        f"({_setting(config)}) up to the last epoch {indicator.size}; train longer, raise the "
        "threshold, or set if_not_converged to 'last'"
    )


def _place_markers(
    smoothed: NDArray[np.float64], start: int, end: int, num_phases: int
) -> tuple[int, ...]:
    if end - start < num_phases:
        raise NoPhasesError(
            f"{_phases_need(num_phases)} {num_phases} epoch{'s' if num_phases > 1 else ''} from the largest loss to "
            f"convergence; got {end - start} (epochs {start} to {end}): lower the threshold"
            + (" or num_phases" if num_phases > 1 else "")
        )
    logs = np.log(np.maximum(smoothed[:end], LOG_FLOOR * smoothed.max()))
    progress = logs[start - 1] - logs  # signed: a rise is no progress
    whole = float(progress[end - 1])
    if not whole > 0:
        raise NoPhasesError(
            f"no progress: the smoothed loss at convergence (epoch {end}) is not below that at "
            f"the largest loss (epoch {start}); use another smoothing, a lower decay or a lower threshold"
        )
    markers = [start]
    for k in range(1, num_phases):
        level = k * whole / num_phases * _LEVEL_SLACK
        first = markers[-1] + 1 + int(np.argmax(progress[markers[-1] :] >= level))
        # Leave an epoch for each later phase, so that the markers strictly increase.
        markers.append(min(first, end - (num_phases - k)))
    return (*markers[1:], end)


def _phases_need(count: int) -> str:
    return "one phase needs at least" if count == 1 else f"{count} phases need at least"


def _times_two_to_the(exponent: int, values: ArrayLike) -> NDArray[np.float64]:
    with np.errstate(over="ignore", under="ignore"):  # thresholds far off the curve's scale
        return np.asarray(np.ldexp(values, exponent))


def _setting(config: PhaseConfig) -> str:
    if config.relative_threshold is not None:
        return f"relative_threshold={config.relative_threshold:g}"
    return f"{config.threshold:g}"


def _checked_positive(value: object, name: str, below: float) -> float:
    number = float_or_nan(value)
    if not 0 < number < below:
        raise ValueError(f"{name} must be a number above 0 and below {below:g}; got {value!r}")
    return number
