"""How well a module's outputs tell classes apart, in numbers that networks of any width have in common.

None depends on the order or scale of channels. Margins that are averaged carry more than errors that are counted, which
come to rest long before the loss does.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmce.convergence.banded import Array

CLASS_STATISTICS = (
    "probe_mse",
    "probe_margin",
    "probe_loss",
    "nc1",
    "nc1_projected",
    "fisher",
    "lda_margin_5",
    "lda_margin_20",
    "class_distance_10",
    "mean_margin",
    "mean_margin_5",
    "cosine_own",
    "residual_90",
)
"""Names of `class_statistics`, without the counted error of the probe."""

_TINY = 1e-12
_FEWEST_PER_CLASS = 2
_RIDGE = 0.03
_SHARPNESS = np.geomspace(0.5, 15, 12)


def class_statistics(features: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Return how well features tell classes apart.

    Args:
        features: (N, D) one row per image, or per image and class where labels belong to positions.
        labels: (N,) class of each row, whole numbers. Classes with fewer than two rows are left out.

    Returns:
        Statistic → value; all NaN where a feature is not finite, all rows are equal, or fewer than two
        classes are left. `probe_mse`, `probe_margin`, `probe_loss` and `probe_error` belong to a ridge
        regression of each half of the rows, judged on the other; `nc1` is log tr Σ_W / tr Σ_B and
        `nc1_projected` log tr(Σ_W Σ_B⁺) / C (Papyan et al., 2020); `lda_…` margins are those of linear
        discriminants, `mean_…` those of nearest class means.

    Raises:
        ValueError: If shapes do not fit.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(60) % 3
    >>> noise = rng.normal(size=(60, 5))
    >>> apart = class_statistics(noise + 4 * np.eye(3, 5)[labels], labels)
    >>> apart["probe_mse"] < class_statistics(noise, labels)["probe_mse"]
    True
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if x.ndim != 2 or y.shape != (len(x),):
        raise ValueError(f"expected features (N, D) and labels (N,), got {x.shape} and {y.shape}")
    found, index, counts = np.unique(y, return_inverse=True, return_counts=True)
    enough = counts >= _FEWEST_PER_CLASS
    rows = enough[index] if len(found) else np.zeros(0, bool)
    x, index = x[rows], (np.cumsum(enough) - 1)[index[rows]]
    if enough.sum() < 2 or not np.isfinite(x).all() or not np.ptp(x, axis=0).any():
        return dict.fromkeys((*CLASS_STATISTICS, "probe_error"), float("nan"))
    # Channels may be huge in a network that diverges; their common scale carries nothing.
    x = x / np.abs(x - x.mean(0)).max()
    return _scatter(x, index) | _discriminants(x, index) | _probe(x, index)


def _log(value: Any) -> float:
    return float(np.log(max(float(value), _TINY)))


def _one_hot(index: NDArray[np.intp]) -> Array:
    return np.eye(int(index.max()) + 1)[index]  # (N,C)


def _class_means(x: Array, one_hot: Array) -> Array:
    counts = np.maximum(one_hot.sum(0), 1)[:, None]
    return np.asarray(one_hot.T @ x / counts)  # (C,D)


def _scatter(x: Array, index: NDArray[np.intp]) -> dict[str, float]:
    """Return scatter within classes against that between them, and margins of nearest means."""
    one_hot = _one_hot(index)
    means, share = _class_means(x, one_hot), one_hot.mean(0)
    centred = means - x.mean(0)
    residuals = x - means[index]
    within, between = (residuals**2).mean(0), (centred**2 * share[:, None]).sum(0)  # (D,)
    total = between.sum() + _TINY
    _, singular, axes = np.linalg.svd(centred * np.sqrt(share)[:, None], full_matrices=False)
    rank = max(1, min(len(means) - 1, int((singular > 1e-6 * singular[0]).sum())))
    projected = ((residuals @ axes[:rank].T) ** 2).mean(0) / (singular[:rank] ** 2 + _TINY)
    alive = (within + between) > 1e-9 * (within + between).max()
    lengths = np.linalg.norm(x - x.mean(0), axis=1) * np.linalg.norm(centred, axis=1)[index]
    cosine = ((x - x.mean(0)) * centred[index]).sum(1) / (lengths + _TINY)
    squares = _square_distances(x, means)
    own, other = _own_and_nearest_other(squares, index)
    margin = (other - own) / (other + own + _TINY)
    return {
        "nc1": _log(within.sum() / total),
        "nc1_projected": _log(projected.sum() / len(means)),
        "fisher": _log((between[alive] / (within[alive] + _TINY)).mean()),
        "residual_90": _log(np.quantile((residuals**2).sum(1) / total, 0.9)),
        "cosine_own": _log(1 - cosine.mean()),
        "mean_margin": _log(1 - margin.mean()),
        "mean_margin_5": float(np.quantile(margin, 0.05)),
    }


def _discriminants(x: Array, index: NDArray[np.intp]) -> dict[str, float]:
    """Return margins of linear discriminants on their own images, with a little ridge."""
    means = _class_means(x, _one_hot(index))
    residuals = x - means[index]
    ridge = 1e-3 * (residuals**2).sum() / residuals.size + _TINY
    covariance = residuals.T @ residuals / len(x) + ridge * np.eye(x.shape[1])
    values, vectors = np.linalg.eigh(covariance)
    white = vectors / np.sqrt(values)  # (D,D)
    mapped, centres = (x - x.mean(0)) @ white, (means - x.mean(0)) @ white
    scores = mapped @ centres.T - (centres**2).sum(1) / 2  # (N,C)
    own, other = _own_and_nearest_other(-scores, index)
    margins = np.arcsinh(np.quantile(other - own, (0.05, 0.2)) / 5)
    apart = _square_distances(centres, centres)[~np.eye(len(centres), dtype=bool)]
    return {
        "lda_margin_5": float(margins[0]),
        "lda_margin_20": float(margins[1]),
        "class_distance_10": _log(np.quantile(np.sqrt(apart), 0.1)),
    }


def _probe(x: Array, index: NDArray[np.intp]) -> dict[str, float]:
    """Return how a ridge regression of each half of the rows predicts the other half's classes."""
    one_hot = _one_hot(index)
    pairs = [(_ridge(x[fit], one_hot[fit], x[rest]), rest) for fit, rest in _halves(len(x))]
    order = np.concatenate([rest for _, rest in pairs])
    predicted, index = np.concatenate([p for p, _ in pairs]), index[order]
    own, other = _own_and_nearest_other(-predicted, index)
    margin = other - own
    errors = ((margin < 0).sum() + 0.5) / (len(margin) + 1)
    return {
        "probe_mse": _log(((predicted - one_hot[order]) ** 2).sum(1).mean()),
        "probe_margin": float(margin.mean() / (margin.std() + _TINY)),
        "probe_loss": _log(min(_cross_entropy(s * predicted, index) for s in _SHARPNESS)),
        "probe_error": _log(errors),
    }


def _halves(count: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    order = np.random.default_rng(0).permutation(count)
    first, second = order[: count // 2], order[count // 2 :]
    yield first, second
    yield second, first


def _ridge(x: Array, targets: Array, unseen: Array) -> Array:
    """Fit targets (N,C) on standardised x (N,D), and predict those of unseen rows (M,C)."""
    count, width = x.shape
    centre, scale = x.mean(0), x.std(0) + 1e-3 * x.std() + _TINY
    x, unseen = (x - centre) / scale, (unseen - centre) / scale
    penalty = _RIDGE * count * max(1.0, width / count)
    offset = targets.mean(0)
    if width > count:
        weights = x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(count), targets - offset)
    else:
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(width), x.T @ (targets - offset))
    return np.asarray(unseen @ weights + offset)


def _square_distances(x: Array, centres: Array) -> Array:
    squares = (x**2).sum(1)[:, None] + (centres**2).sum(1) - 2 * x @ centres.T
    return np.asarray(np.maximum(squares, 0))  # (N,C)


def _own_and_nearest_other(costs: Array, index: NDArray[np.intp]) -> tuple[Array, Array]:
    """Return each row's cost of its own class and the smallest of the others, both (N,)."""
    rows = np.arange(len(costs))
    own, others = costs[rows, index], costs.copy()
    others[rows, index] = np.inf
    return own, others.min(1)


def _cross_entropy(logits: Array, index: NDArray[np.intp]) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    own = shifted[np.arange(len(index)), index]
    return float((np.log(np.exp(shifted).sum(1)) - own).mean())
