"""Divide a training run into convergence phases by its losses (FMCE, sections IV-B and IV-C)."""

import json
import math
import operator
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from decimal import ROUND_CEILING, Context
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmce.convergence.cqi import cqi
from fmce.convergence.markers import Located, NoPhasesError, PhaseConfig, locate_markers
from fmce.convergence.smoothing import Smoothing, checked_sequence, smooth_losses

__all__ = ["NoPhasesError", "PhaseConfig", "Phases", "find_phases"]

# Not given in the paper: where a step curve takes at least this share of the epochs to convergence, the
# smoother made the markers; below this share of its peak at E_K, the learning rate made the convergence.
_SMOOTHING_DRIVEN_FROM = 0.75
_SCHEDULE_DRIVEN_BELOW = 0.25
_TWO_DIGITS = Context(prec=2, rounding=ROUND_CEILING)


@dataclass(frozen=True, eq=False)
class Phases:
    """The convergence phases of one run. Epochs count from 1; losses are in the curve's unit.

    Two results are equal, and hash alike, when all their fields are; the NaN of CQI's first epoch
    counts as equal to itself.

    Args:
        markers: Epochs E_1 < … < E_K; each ends its phase.
        start_epoch: E_0, the epoch of the largest raw loss.
        convergence_epoch: E_K.
        converged: False where no epoch met the threshold and the last one was taken.
        lr_fraction: Learning rate at E_K over its peak, in [0, 1]; None without learning rates.
        schedule_driven: Whether the rate had fallen below a quarter of its peak at E_K, so that
            CQI partly measures the schedule; None without learning rates.
        smoothing_driven: Whether `smoothing_share` is at least 0.75; None where the step curve has no markers.
        step_curve_markers: Markers of a curve with the same first and last loss that drops at
            epoch 2, under the same config: what the smoother yields by itself. None if it has none.
        unsmoothed_markers: Markers of this curve with ``smoothing="none"``, or None.
        debiased_markers: Markers of this curve with ``smoothing="debiased_ema"``, or None.
        smoothed: L̃, one value per epoch.
        cqi: CQI, one value per epoch, NaN at the first.
        config: The settings they were found with.

    Raises:
        ValueError: If the fields contradict each other.
    """

    markers: tuple[int, ...]
    start_epoch: int
    convergence_epoch: int
    converged: bool
    lr_fraction: float | None
    schedule_driven: bool | None
    smoothing_driven: bool | None
    step_curve_markers: tuple[int, ...] | None
    unsmoothed_markers: tuple[int, ...] | None
    debiased_markers: tuple[int, ...] | None
    smoothed: tuple[float, ...]
    cqi: tuple[float, ...]
    config: PhaseConfig

    def __post_init__(self) -> None:
        ladder = (self.start_epoch, *self.markers)
        if (
            len(self.markers) != self.config.num_phases
            or any(low >= high for low, high in pairwise(ladder))
            or self.markers[-1] != self.convergence_epoch
            or not 1 <= self.start_epoch < self.convergence_epoch <= len(self.smoothed)
            or len(self.smoothed) != len(self.cqi)
        ):
            raise ValueError(
                "phases need num_phases rising markers after start_epoch that end with "
                "convergence_epoch, within as many epochs as smoothed and cqi have; got "
                f"{self.markers} after {self.start_epoch}, convergence {self.convergence_epoch}, "
                f"{len(self.smoothed)} and {len(self.cqi)} epochs: use find_phases to make them"
            )
        if not (_all_finite(self.smoothed) and _all_finite(self.cqi[1:])):
            raise ValueError("smoothed, and cqi after epoch 1, must be finite; got NaN or infinity")

    @property
    def num_epochs(self) -> int:
        """Length M of the loss sequence."""
        return len(self.smoothed)

    @property
    def threshold(self) -> float:
        """µ in the unit of the losses, also where the config gives it as a share of the range."""
        if self.config.relative_threshold is None:
            return self.config.threshold
        return self.config.relative_threshold * (max(self.smoothed) - min(self.smoothed))

    @property
    def smoothing_distance(self) -> float | None:
        """Mean absolute difference in epochs to the step curve's markers; None without them."""
        if self.step_curve_markers is None:
            return None
        return float(np.mean(np.abs(np.subtract(self.markers, self.step_curve_markers))))

    @property
    def smoothing_share(self) -> float | None:
        """Share of E_K − E_0, in [0, 1], that a step curve shows as well; None without its markers."""
        return _smoothing_share(self.step_curve_markers, self.markers[-1] - self.start_epoch)

    def phase_at(self, epoch: int) -> int:
        """Return the phase, 1 … K, of an epoch.

        A marker ends its phase: phase k is the epochs after E_{k−1} up to E_k. Not given in the
        paper: epochs up to E_0 count as phase 1, epochs after E_K as phase K.

        Raises:
            ValueError: If ``epoch`` is no whole number in 1 … M.
        """
        try:
            index = operator.index(epoch)
        except TypeError:
            index = 0
        if not 1 <= index <= self.num_epochs:
            raise ValueError(f"epoch must be a whole number in 1…{self.num_epochs}; got {epoch!r}")
        return min(bisect_left(self.markers, index) + 1, len(self.markers))

    def to_json(self) -> str:
        """Write as strict JSON, one field a line, NaN as null; ``from_json`` restores it exactly."""
        plain = asdict(self) | {"cqi": [None if math.isnan(c) else c for c in self.cqi]}
        lines = [f"  {json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in plain.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> "Phases":
        """Read what ``to_json`` wrote; the result equals the phases that were written.

        Raises:
            ValueError: If it is no JSON, has other fields, or values that cannot be phases.
        """
        try:
            return cls(**_restore(json.loads(text), {field.name for field in fields(cls)}))
        except (OverflowError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"expected phases as to_json writes them; got: {error}") from error

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Phases) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        # NaN differs from itself, and CQI's only one stands at the first epoch.
        values = (getattr(self, field.name) for field in fields(self) if field.name != "cqi")
        return (*values, self.cqi[1:])


def find_phases(
    losses: ArrayLike,
    config: PhaseConfig = PhaseConfig(),  # noqa: B008 (frozen, so one instance may be shared)
    *,
    learning_rates: ArrayLike | None = None,
) -> Phases:
    """Find the convergence epoch and the epoch markers of a loss sequence.

    E_K is the first epoch after CQI's (first) maximum with CQI ≤ µ, and E_0 the epoch of the
    largest raw loss. With the progress p_m = log L̃_{E_0} − log L̃_m, marker E_k is the first epoch
    after E_{k−1} with p_m ≥ k·p_{E_K}/K, but no later than E_K − (K − k), so that the markers
    strictly increase (FMCE, section IV-C). While training goes on the result is provisional: a
    later spike moves CQI's maximum.

    Args:
        losses: L_1 … L_M, one per epoch, finite and ≥ 0; any unit (the paper: nats).
        config: What counts as converged, and how many phases.
        learning_rates: One per epoch, finite and ≥ 0; only for ``lr_fraction``.

    Returns:
        Markers, the curves they were found on, and what they owe to smoother and schedule.
        Scaling losses and threshold alike changes no epoch.

    Raises:
        ValueError: Losses or learning rates are no 1-d sequence of finite numbers ≥ 0, or of
            different lengths, or the rates are all 0.
        NoPhasesError: (a ValueError) The curve is too short, all zero, never moves by more than
            the threshold, has not converged, converges less than K epochs after its maximum, or
            is not lower at convergence than at its maximum.

    >>> phases = find_phases([2.3] + [0.001] * 59, PhaseConfig(threshold=2e-3))
    >>> phases.markers  # one step, spread over 36 epochs by the smoother alone
    (5, 8, 12, 15, 19, 22, 26, 29, 33, 36)
    >>> phases.smoothing_driven
    True
    """
    if not isinstance(config, PhaseConfig):
        raise ValueError(f"config must be a PhaseConfig; got {type(config).__name__}")
    curve = _checked_non_negative(losses, "losses")
    rates = None if learning_rates is None else _checked_rates(learning_rates, curve.size)
    try:
        found = locate_markers(curve, config)
    except NoPhasesError as error:
        working = working_threshold(curve, config)
        if working is None:
            raise
        ends, threshold, epoch = working
        raise NoPhasesError(
            f"{error}. CQI ends at {ends:.2g}; --threshold {threshold:g} gives epoch {epoch}"
        ) from None
    step_curve = np.full_like(curve, curve[-1])
    step_curve[0] = curve[0]
    step = _markers_or_none(step_curve, config)
    fraction = None if rates is None else float(rates[found.markers[-1] - 1] / rates.max())
    share = _smoothing_share(step, found.markers[-1] - found.start_epoch)
    return Phases(
        markers=found.markers,
        start_epoch=found.start_epoch,
        convergence_epoch=found.markers[-1],
        converged=found.converged,
        lr_fraction=fraction,
        # A rate below its peak has varied; a constant one has fraction 1.
        schedule_driven=None if fraction is None else fraction < _SCHEDULE_DRIVEN_BELOW,
        smoothing_driven=None if share is None else share >= _SMOOTHING_DRIVEN_FROM,
        step_curve_markers=step,
        unsmoothed_markers=_control(curve, config, found, "none"),
        debiased_markers=_control(curve, config, found, "debiased_ema"),
        smoothed=tuple(found.smoothed.tolist()),
        cqi=tuple(found.cqi.tolist()),
        config=config,
    )


def _control(
    curve: NDArray[np.float64], config: PhaseConfig, found: Located, smoothing: Smoothing
) -> tuple[int, ...] | None:
    """Return the markers that the curve has with another smoothing."""
    if smoothing == config.smoothing:
        return found.markers
    known = found.unit_smoothed if config.smoothing == "ema" else None
    return _markers_or_none(curve, replace(config, smoothing=smoothing), known)


def _smoothing_share(step_markers: tuple[int, ...] | None, epochs: int) -> float | None:
    return None if step_markers is None else min((step_markers[-1] - 1) / epochs, 1.0)


def _all_finite(values: tuple[float, ...]) -> bool:
    # A sum is finite only where all values are; the reverse fails for values near the largest float.
    return math.isfinite(sum(values)) or all(map(math.isfinite, values))


def working_threshold(
    curve: NDArray[np.float64], config: PhaseConfig
) -> tuple[float, float, int] | None:
    """Return CQI's last value, a threshold with which the curve has phases, and its convergence epoch.

    The threshold is the smallest that works, to two digits (of a curve that never moves by as much as the
    one given, a thousandth of its range if that works); without one that works, None is returned.
    """
    if curve.size < 3 or not curve.any():
        return None
    indicator = cqi(smooth_losses(curve, config.decay, config.smoothing), config.window)[1:]
    positive = indicator[indicator > 0]
    if not positive.size:
        return None
    candidates = np.geomspace(positive.min(), positive.max(), 40)
    if config.relative_threshold is None and positive.max() <= config.threshold:
        candidates = np.append(1e-3 * np.ptp(curve), candidates)
    for value in candidates:
        threshold = float(_TWO_DIGITS.create_decimal(repr(float(value))))
        tried = replace(config, threshold=threshold, relative_threshold=None)
        try:
            located = locate_markers(curve, replace(tried, if_not_converged="error"))
        except NoPhasesError:
            continue
        return float(indicator[-1]), tried.threshold, located.markers[-1]
    return None


def window_sensitivity(
    losses: ArrayLike, config: PhaseConfig, windows: Sequence[int] = (1, 3, 5, 10)
) -> dict[int, tuple[int, ...] | None]:
    """Find the markers, or None, under other CQI windows B, which the paper uses and never gives.

    Raises:
        ValueError: As ``find_phases`` for losses that are no curve.

    >>> curve = [2.3] + [0.001] * 59
    >>> sorted(window_sensitivity(curve, PhaseConfig(threshold=2e-3)))
    [1, 3, 5, 10]
    """
    curve = _checked_non_negative(losses, "losses")
    return {b: _markers_or_none(curve, replace(config, window=b)) for b in windows}


def _markers_or_none(
    curve: NDArray[np.float64], config: PhaseConfig, known: NDArray[np.float64] | None = None
) -> tuple[int, ...] | None:
    try:
        return locate_markers(curve, config, known).markers
    except NoPhasesError:
        return None


def _checked_non_negative(values: ArrayLike, name: str) -> NDArray[np.float64]:
    sequence = checked_sequence(values, name)
    negative = np.flatnonzero(sequence < 0)
    if negative.size:
        raise ValueError(
            f"{name} must not be negative; got {float(sequence[negative[0]])} at epoch "
            f"{negative[0] + 1}: phases are parts of a log scale, so use a sequence ≥ 0"
        )
    return sequence


def _checked_rates(learning_rates: ArrayLike, num_epochs: int) -> NDArray[np.float64]:
    rates = _checked_non_negative(learning_rates, "learning_rates")
    if (got := rates.size) != num_epochs:
        raise ValueError(f"learning_rates must hold one value per epoch, {num_epochs}; got {got}")
    if not rates.any():
        raise ValueError("learning_rates must hold a value above 0; got only zeros: leave them out")
    return rates


def _restore(plain: Any, names: set[str]) -> dict[str, Any]:
    """Turn the parsed JSON object into the constructor's arguments."""
    if not isinstance(plain, dict) or set(plain) != names:
        raise ValueError(f"an object with other fields than {', '.join(sorted(names))}")
    values = dict(plain)
    for name in (name for name in names if name.endswith("markers") and plain[name] is not None):
        values[name] = tuple(operator.index(epoch) for epoch in plain[name])
    for name in ("start_epoch", "convergence_epoch"):
        values[name] = operator.index(plain[name])
    values["smoothed"] = tuple(float(loss) for loss in plain["smoothed"])
    values["cqi"] = tuple(math.nan if c is None else float(c) for c in plain["cqi"])
    for name in ("converged", "schedule_driven", "smoothing_driven"):
        if not isinstance(plain[name], bool | None) or plain["converged"] is None:
            raise ValueError(f"{name} = {plain[name]!r}, which is no truth value")
    if plain["lr_fraction"] is not None:
        values["lr_fraction"] = float(plain["lr_fraction"])
    values["config"] = PhaseConfig(**plain["config"])
    return values
