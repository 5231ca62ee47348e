"""Metrics of FMCE-Net's phase predictions, in float64: the FMCE paper's four, and some for ordered classes."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
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

    Raises:
        ValueError: If shapes do not fit, a logit is not finite, or a phase is no integer in 1 … K.

    >>> metrics = phase_metrics([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]], [1, 2, 2])
    >>> round(metrics.accuracy, 3), metrics.confusion.tolist()
    (0.667, [[1, 0], [1, 1]])
    """
    logits, truth = _checked(phase_logits, phases, num_phases)
    count = logits.shape[1]
    cells = np.bincount((truth - 1) * count + logits.argmax(axis=1), minlength=count**2)
    confusion = cells.reshape(count, count).astype(np.int64)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = (weights * np.arange(1, count + 1)).sum(axis=1) / weights.sum(axis=1)
    hits, predicted, true = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    # Not given in the paper: classes in neither truth nor predictions do not count.
    present = (predicted + true) > 0
    return PhaseMetrics(
        accuracy=float(np.trace(confusion) / len(truth)),
        precision=_macro(hits, predicted, present),
        recall=_macro(hits, true, present),
        f1=_macro(2 * hits, predicted + true, present),
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
    num_phases = logits.shape[1]
    if not np.issubdtype(truth.dtype, np.integer):
        raise ValueError(f"expected integer phases, got dtype {truth.dtype}; pass labels 1 … K")
    if truth.min() < 1 or truth.max() > num_phases:
        raise ValueError(
            f"phases must be in 1 … {num_phases}, got {truth.min()} … {truth.max()}; "
            "phases count from 1, class indices from 0"
        )
    return logits, truth.astype(np.int64)


def _macro(numerators: IntArray, denominators: IntArray, present: NDArray[np.bool_]) -> float:
    """Return the mean quotient of the present classes, 0 where a denominator is 0."""
    zeros = np.zeros(len(numerators))
    quotients = np.divide(numerators, denominators, out=zeros, where=denominators > 0)
    return float(quotients[present].mean())


def _spearman(expected: _FloatArray, truth: IntArray) -> float:
    if np.ptp(expected) == 0 or np.ptp(truth) == 0:
        return math.nan
    # Spearman's ρ is Pearson's r of the ranks, ties at their mean rank.
    return float(np.corrcoef(_ranks(expected), _ranks(truth))[0, 1])


def _ranks(values: ArrayLike) -> _FloatArray:
    """Return ranks from 1, ties at their mean; `scipy.stats` takes a second to import."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def _quadratic_kappa(confusion: IntArray) -> float:
    """Return 1 − Σ w·observed / Σ w·expected by chance, with w = (i − j)²."""
    index = np.arange(len(confusion))
    weights = (index[:, None] - index[None, :]) ** 2
    by_chance = np.outer(confusion.sum(axis=1), confusion.sum(axis=0)) / confusion.sum()
    disagreement = float((weights * by_chance).sum())
    if disagreement == 0:
        return math.nan
    return 1 - float((weights * confusion).sum()) / disagreement
