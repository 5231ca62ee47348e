"""Metrics of FMCE-Net's phase predictions: the FMCE paper's four, and some for ordered classes.

Computed in float64 on the CPU over a complete set at once; nothing is accumulated over batches.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from torch import Tensor

from fmce.metrics.segmentation import none_if_nan

_FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class PhaseMetrics(NamedTuple):
    """How well phases were predicted; fractions in [0, 1] unless stated otherwise.

    Attributes:
        accuracy: Fraction of maps whose argmax is the true phase.
        precision: Mean over classes present in truth or predictions; 0 for a class never predicted.
        recall: Same mean; 0 for a class that is only predicted.
        f1: Same mean of the classes' F1; 0 where precision and recall are 0.
        mae: Mean absolute difference of expected and true phase, in phases.
        spearman: Rank correlation of expected and true phase in [-1, 1]; NaN if either is constant.
        kappa: Quadratic-weighted Cohen's kappa of the argmax, at most 1; NaN if truth and
            predictions are all one and the same class.
        confusion: (K, K) counts, row = true phase − 1, column = predicted phase − 1.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    mae: float
    spearman: float
    kappa: float
    confusion: IntArray

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, NaN as None and the confusion matrix as nested lists."""
        numbers = {k: v for k, v in self._asdict().items() if k != "confusion"}
        plain = {name: none_if_nan(value) for name, value in numbers.items()}
        return plain | {"confusion": self.confusion.tolist()}


def phase_metrics(
    phase_logits: Tensor | ArrayLike, phases: Tensor | ArrayLike, *, num_phases: int | None = None
) -> PhaseMetrics:
    """Score FMCE-Net's logits against the true phases.

    The FMCE paper reports accuracy and macro precision, recall and F1 of the argmax. It does not
    give which classes the macro mean covers (here those present in truth or predictions, as
    scikit-learn does by default), nor the metrics for ordered classes.

    Args:
        phase_logits: (B, K) finite logits, B at least 1; index = phase − 1. Not probabilities.
        phases: (B,) true phases, integers in 1 … K.
        num_phases: K, only to check the logits against; None takes it from them.

    Returns:
        The metrics over all B maps.

    Raises:
        ValueError: If shapes do not fit, a logit is not finite, or a phase is no integer in
            1 … K.

    Example:
        >>> metrics = phase_metrics([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]], [1, 2, 2])
        >>> round(metrics.accuracy, 3), metrics.confusion.tolist()
        (0.667, [[1, 0], [1, 1]])
    """
    logits, truth = _checked(phase_logits, phases, num_phases)
    confusion = _confusion(truth - 1, logits.argmax(axis=1), logits.shape[1])
    expected = _expected_phases(logits)
    precision, recall, f1 = _macro_scores(confusion)
    return PhaseMetrics(
        accuracy=float(np.trace(confusion) / len(truth)),
        precision=precision,
        recall=recall,
        f1=f1,
        mae=float(np.abs(expected - truth).mean()),
        spearman=_spearman(expected, truth),
        kappa=_quadratic_kappa(confusion),
        confusion=confusion,
    )


def _as_array(values: Tensor | ArrayLike) -> NDArray[Any]:
    if isinstance(values, Tensor):
        # numpy has no bfloat16; float32 holds every bfloat16 and float16 exactly.
        tensor = values.detach().cpu()
        return np.asarray((tensor.float() if tensor.element_size() == 2 else tensor).numpy())
    return np.asarray(values)


def _checked(
    phase_logits: Tensor | ArrayLike, phases: Tensor | ArrayLike, num_phases: int | None
) -> tuple[_FloatArray, IntArray]:
    logits = _as_array(phase_logits).astype(np.float64)
    truth = _as_array(phases)
    if logits.ndim != 2 or 0 in logits.shape or truth.shape != logits.shape[:1]:
        raise ValueError(
            f"expected logits (B, K) and phases (B,) with B >= 1, got {logits.shape} and "
            f"{truth.shape}; concatenate the batches of one set first"
        )
    if num_phases is not None and num_phases != logits.shape[1]:
        raise ValueError(
            f"expected logits of {num_phases} phases, got {logits.shape[1]}; "
            "use the FMCE-Net that was built for these phases"
        )
    if not np.isfinite(logits).all():
        raise ValueError("expected finite logits, got NaN or infinity; did FMCE-Net diverge?")
    return logits, _checked_phases(truth, logits.shape[1])


def _checked_phases(truth: NDArray[Any], num_phases: int) -> IntArray:
    if not np.issubdtype(truth.dtype, np.integer):
        raise ValueError(f"expected integer phases, got dtype {truth.dtype}; pass labels 1 … K")
    if truth.min() < 1 or truth.max() > num_phases:
        raise ValueError(
            f"phases must be in 1 … {num_phases}, got {truth.min()} … {truth.max()}; "
            "phases count from 1, class indices from 0"
        )
    return truth.astype(np.int64)


def _confusion(truth: IntArray, predicted: NDArray[np.intp], num_classes: int) -> IntArray:
    counts = np.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def _expected_phases(logits: _FloatArray) -> _FloatArray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    phases = np.arange(1, logits.shape[1] + 1)
    expected: _FloatArray = (weights * phases).sum(axis=1) / weights.sum(axis=1)
    return expected


def _ratio(numerator: _FloatArray, denominator: _FloatArray) -> _FloatArray:
    """Divide elementwise, 0 where the denominator is 0 (scikit-learn's zero_division=0)."""
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


def _macro_scores(confusion: IntArray) -> tuple[float, float, float]:
    hits = np.diag(confusion).astype(np.float64)
    predicted, true = confusion.sum(axis=0), confusion.sum(axis=1)
    # Not given in the paper: classes in neither truth nor predictions do not count.
    present = (predicted + true) > 0
    per_class = (
        _ratio(hits, predicted.astype(np.float64)),
        _ratio(hits, true.astype(np.float64)),
        _ratio(2 * hits, (predicted + true).astype(np.float64)),
    )
    precision, recall, f1 = (float(values[present].mean()) for values in per_class)
    return precision, recall, f1


def _spearman(expected: _FloatArray, truth: IntArray) -> float:
    if np.ptp(expected) == 0 or np.ptp(truth) == 0:
        return math.nan
    # Spearman's ρ is Pearson's r of the ranks, ties at their mean rank.
    return float(np.corrcoef(rankdata(expected), rankdata(truth))[0, 1])


def _quadratic_kappa(confusion: IntArray) -> float:
    """Return 1 − Σ w·observed / Σ w·expected by chance, with w = (i − j)²."""
    index = np.arange(len(confusion))
    weights = (index[:, None] - index[None, :]) ** 2
    by_chance = np.outer(confusion.sum(axis=1), confusion.sum(axis=0)) / confusion.sum()
    disagreement = float((weights * by_chance).sum())
    if disagreement == 0:
        return math.nan
    return 1 - float((weights * confusion).sum()) / disagreement
