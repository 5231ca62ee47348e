import json
import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import spearmanr
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    precision_recall_fscore_support,
)

from fmce.metrics.phases import phase_metrics


def sure_of(predicted: list[int], num_phases: int) -> np.ndarray:
    """Logits whose expected phase equals the argmax to 1e-20."""
    return 60.0 * np.eye(num_phases)[np.array(predicted) - 1]


def test_hand_worked_example() -> None:
    # Truth 1 1 2 3, predicted 1 2 2 2.
    metrics = phase_metrics(sure_of([1, 2, 2, 2], 3), [1, 1, 2, 3])
    assert metrics.accuracy == 0.5
    assert metrics.precision == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert metrics.recall == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert metrics.f1 == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert metrics.mae == pytest.approx(0.5)
    assert metrics.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert metrics.confusion.dtype == np.int64
    # Observed Σw = 2; by chance (2·3·1 + 1·1·1 + 1·1·4 + 1·3·1)/4 = 3.5.
    assert metrics.kappa == pytest.approx(1 - 2 / 3.5)


def test_mae_uses_the_expected_phase_not_the_argmax() -> None:
    logits = np.log([[0.6, 0.0 + 1e-300, 0.4]])
    assert phase_metrics(logits, [1]).mae == pytest.approx(0.8)  # 0.6·1 + 0.4·3 − 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("num_phases", "rows"), [(10, 200), (10, 6), (2, 30)])
def test_agrees_with_scikit_learn_and_scipy(seed: int, num_phases: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    phases = rng.integers(1, num_phases + 1, rows)
    phases[:2] = 1, 2  # never constant
    logits = rng.normal(size=(rows, num_phases)) + np.eye(num_phases)[phases - 1]
    metrics = phase_metrics(logits, phases)
    predicted, labels = logits.argmax(axis=1) + 1, np.arange(1, num_phases + 1)
    macro = precision_recall_fscore_support(phases, predicted, average="macro", zero_division=0)
    expected = softmax(logits, axis=1) @ labels
    assert metrics[:4] == pytest.approx([accuracy_score(phases, predicted), *macro[:3]])
    assert metrics.mae == pytest.approx(np.abs(expected - phases).mean())
    assert metrics.spearman == pytest.approx(spearmanr(expected, phases).statistic)
    assert metrics.kappa == pytest.approx(
        cohen_kappa_score(phases, predicted, labels=labels, weights="quadratic")
    )
    np.testing.assert_array_equal(
        metrics.confusion, confusion_matrix(phases, predicted, labels=labels)
    )


def test_one_class_leaves_rank_metrics_undefined_without_warnings() -> None:
    metrics = phase_metrics(sure_of([2, 2], 3), [2, 2])
    assert metrics.accuracy == metrics.precision == metrics.recall == metrics.f1 == 1
    assert math.isnan(metrics.spearman)
    assert math.isnan(metrics.kappa)


def test_constant_predictions_leave_spearman_undefined() -> None:
    metrics = phase_metrics(np.zeros((7, 10)), [1, 2, 3, 4, 5, 6, 7])
    assert math.isnan(metrics.spearman)
    assert metrics.mae == pytest.approx((4.5 + 3.5 + 2.5 + 1.5 + 0.5 + 0.5 + 1.5) / 7)
    assert metrics.kappa == pytest.approx(0)


def test_spearman_is_one_for_any_rising_relation() -> None:
    assert phase_metrics(sure_of([1, 3, 9], 10), [4, 5, 6]).spearman == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_of_every_float_type_are_accepted(dtype: torch.dtype) -> None:
    logits = torch.eye(3, dtype=dtype, requires_grad=True)
    assert phase_metrics(logits, torch.tensor([1, 2, 3])).accuracy == 1


def test_huge_logits_do_not_overflow() -> None:
    assert phase_metrics([[1e4, -1e4], [-1e4, 1e4]], [1, 2]).mae == 0


def test_to_dict_is_json_with_null_for_undefined() -> None:
    plain = json.loads(json.dumps(phase_metrics(sure_of([2], 2), [2]).to_dict(), allow_nan=False))
    assert plain["spearman"] is None
    assert plain["kappa"] is None
    assert plain["accuracy"] == 1
    assert plain["confusion"] == [[0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("logits", "phases", "num_phases", "message"),
    [
        (np.zeros(3), [1], None, r"expected logits \(B, K\) and phases \(B,\)"),
        (np.zeros((2, 3)), [1], None, r"got \(2, 3\) and \(1,\)"),
        (np.zeros((0, 3)), [], None, "B >= 1"),
        (np.zeros((1, 3)), [0], None, r"in 1 … 3, got 0 … 0; phases count from 1"),
        (np.zeros((1, 3)), [4], None, "got 4 … 4"),
        (np.zeros((1, 3)), [1.5], None, "integer phases, got dtype float64"),
        (np.zeros((1, 3)), [1], 10, "logits of 10 phases, got 3"),
        (np.full((1, 3), np.nan), [1], None, "finite logits"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    logits: np.ndarray, phases: list[int], num_phases: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        phase_metrics(logits, phases, num_phases=num_phases)
