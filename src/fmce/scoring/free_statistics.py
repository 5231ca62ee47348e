"""What a module's outputs show without any label: their spectrum, their neighbours and their channels."""

import numpy as np
from numpy.typing import ArrayLike

from fmce.convergence.banded import Array

FREE_STATISTICS = (
    "effective_rank",
    "participation",
    "stable_rank",
    "tail_3",
    "tail_9",
    "gap",
    "decay",
    "cosine_50",
    "cosine_90",
    "cosine_97",
    "cosine_spread",
    "neighbour_1",
    "neighbour_5",
    "dimension",
    "norm_spread",
    "selectivity",
    "channel_correlation",
)
"""Names of `free_statistics`."""

_TINY = 1e-12
_MOST = 256
_CLASSES = 10


def free_statistics(features: ArrayLike) -> dict[str, float]:
    """Return what features show without labels, of the first 256 rows.

    Args:
        features: (N, D), one row per image.

    Returns:
        Statistic → value; all NaN where a feature is not finite, all rows are equal, or there are fewer
        than 16 rows. None depends on the order of channels or a common scale.

    Raises:
        ValueError: If the shape does not fit.

    >>> few = np.random.default_rng(0).normal(size=(64, 2)) @ np.ones((2, 8))
    >>> round(free_statistics(few)["participation"], 6)
    0.0
    """
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2:
        raise ValueError(f"expected features (N, D), got {x.shape}")
    x = x[:_MOST]
    if len(x) < 16 or not np.isfinite(x).all() or not np.ptp(x, axis=0).any():
        return dict.fromkeys(FREE_STATISTICS, float("nan"))
    x = x / np.abs(x).max()
    return _spectrum(x) | _pairs(x) | _channels(x)


def _log(value: float) -> float:
    return float(np.log(max(float(value), _TINY)))


def _spectrum(x: Array) -> dict[str, float]:
    values = np.linalg.svd(x - x.mean(0), compute_uv=False)[: min(len(x) - 1, x.shape[1])]
    power = values**2
    total, shares = power.sum() + _TINY, values / (values.sum() + _TINY)
    padded = np.concatenate([power, np.full(_CLASSES, power[-1])]) / total + 1e-9
    upto = min(30, len(power))
    slope = 0.0
    if upto > 2:
        slope = float(np.polyfit(np.log(np.arange(2, upto + 1)), np.log(padded[1:upto]), 1)[0])
    return {
        "effective_rank": float(-(shares * np.log(shares + _TINY)).sum()),
        "participation": _log(total**2 / ((power**2).sum() + _TINY)),
        "stable_rank": _log(total / (power[0] + _TINY)),
        "tail_3": _log(power[3:].sum() / total + 1e-9),
        "tail_9": _log(power[_CLASSES - 1 :].sum() / total + 1e-9),
        "gap": _log(padded[_CLASSES - 2] / padded[_CLASSES - 1]),
        "decay": slope,
    }


def _pairs(x: Array) -> dict[str, float]:
    centred = x - x.mean(0)
    unit = centred / (np.linalg.norm(centred, axis=1, keepdims=True) + _TINY)
    count = len(x)
    cosines = (unit @ unit.T)[~np.eye(count, dtype=bool)]
    squares = (centred**2).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * centred @ centred.T, 0))
    mean = distances.sum() / (count * (count - 1)) + _TINY
    np.fill_diagonal(distances, np.inf)
    near = np.sort(distances, axis=1)[:, :5]
    growth = np.log((near[:, 1] + 1e-9) / (near[:, 0] + 1e-9)).sum()
    middle, high, top = np.quantile(cosines, (0.5, 0.9, 0.97))
    return {
        "cosine_50": float(middle),
        "cosine_90": float(high),
        "cosine_97": float(top),
        "cosine_spread": float(cosines.std()),
        "neighbour_1": _log(near[:, 0].mean() / mean),
        "neighbour_5": _log(near[:, 4].mean() / mean),
        "dimension": _log(count / (growth + _TINY)),
    }


def _channels(x: Array) -> dict[str, float]:
    lengths, size = np.linalg.norm(x, axis=1), np.abs(x).mean(0)
    alive = size > 1e-9 * size.max()
    x = x[:, alive]
    spread = x.std(0)
    scaled = (x - x.mean(0)) / (spread + _TINY)
    together = np.abs(scaled.T @ scaled / len(x))[~np.eye(x.shape[1], dtype=bool)]
    return {
        "norm_spread": _log(lengths.std() / (lengths.mean() + _TINY)),
        "selectivity": _log((spread / (size[alive] + _TINY)).mean()),
        "channel_correlation": float(together.mean()) if together.size else 0.0,
    }
