"""When a running training will reach its published convergence epoch E_K, with an interval.

The epochs ahead are drawn from the fitted trend (`trend.py`); on each drawn curve E_K is found as `find_phases`
finds it. Not in the papers.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from fmce.convergence.markers import NoPhasesError, PhaseConfig, locate_markers
from fmce.convergence.smoothing import checked_sequence
from fmce.convergence.trend import sample_paths

# Epochs that a prediction needs, and the share of drawn curves that must converge within the horizon.
_FEWEST_EPOCHS, _LEAST_SHARE = 10, 0.9
_CURVES = 100
# A trend that is continued on the log scale knows no floor, so it takes too long: these shares of the epochs left
# are the 5th, 50th and 95th percentile of the truth on simulated curves (experiments/verdict.py).
_LEFT = np.array([0.55, 0.82, 1.2])


@dataclass(frozen=True)
class PredictedEpoch:
    """A convergence epoch that has not come yet: median and 90 % interval over the drawn curves."""

    epoch: int
    low: int
    high: int


def predict_convergence_epoch(
    losses: ArrayLike, config: PhaseConfig, *, horizon: int | None = None
) -> PredictedEpoch | None:
    """Predict the published E_K of a training that is still running.

    Args:
        losses: (M,) losses so far, one per epoch, finite and > 0.
        config: The settings that E_K will be found with.
        horizon: Epochs ahead to look at; by default as many as there are, at least 50.

    Returns:
        The prediction; of a curve that has converged already, the epoch at which it did. None where it cannot
        be made yet: too few epochs, or more than a tenth of the drawn curves do not converge within the
        horizon.

    Raises:
        ValueError: If the losses are no 1-d sequence of finite numbers.

    >>> curve = 2.3 * np.exp(-np.arange(30) / 10) + 0.05
    >>> predict_convergence_epoch(curve, PhaseConfig(threshold=2e-3))  # it will be 60
    PredictedEpoch(epoch=60, low=49, high=75)
    """
    curve = checked_sequence(losses, "losses")
    if curve.size < _FEWEST_EPOCHS or (curve <= 0).any():
        return None
    ahead = max(curve.size, 50) if horizon is None else horizon
    plain = replace(config, num_phases=1, if_not_converged="error")
    found = []
    for path in sample_paths(curve, horizon=ahead, count=_CURVES):
        try:
            found.append(locate_markers(np.concatenate([curve, path]), plain).markers[-1])
        except NoPhasesError:
            continue
    if len(found) < _LEAST_SHARE * _CURVES:
        return None
    left = np.maximum(np.percentile(found, [5, 50, 95]) - curve.size, 0) * _LEFT
    low, middle, high = curve.size + left
    return PredictedEpoch(round(middle), int(low), int(np.ceil(high)))
