"""Agreement with the teacher: hand-worked values, scipy and scikit-learn over streamed batches."""

import doctest
import math

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from sklearn.metrics import jaccard_score

from fmce.metrics import agreement as module
from fmce.metrics.agreement import Agreement


def _pair(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(2 * torch.randn(*shape, generator=generator) for _ in range(2))


def agreement_of(student, teacher):
    agreement = Agreement(student.shape[1])
    agreement.update(student, teacher)
    return agreement


def test_a_student_equal_to_its_teacher_agrees_fully():
    _, teacher = _pair(2, 4, 5, 6)
    # A shift of all logits changes no probability.
    scores = agreement_of(teacher + 3.0, teacher).compute()
    assert (scores.argmax_agreement, scores.miou, scores.positions) == (1.0, 1.0, 60)
    assert scores.mean_kl == pytest.approx(0.0, abs=1e-6)


def test_two_images_have_the_values_worked_out_by_hand():
    # Teacher (½, ½) → class 0 and (¼, ¾) → class 1; student (¼, ¾) → 1 and the same → 1.
    low, high = 0.0, math.log(3.0)
    teacher = torch.tensor([[low, low], [low, high]])
    student = torch.tensor([[low, high], [low, high]])
    scores = agreement_of(student, teacher).compute()
    assert scores.argmax_agreement == 0.5
    assert scores.miou == pytest.approx((0 + 1 / 2) / 2)
    assert scores.mean_kl == pytest.approx(0.5 * math.log(4 / 3) / 2, rel=1e-5)


def test_streamed_scores_agree_with_scipy_and_scikit_learn():
    student, teacher = _pair(6, 5, 7, 4)
    agreement = Agreement(5)
    for start in range(0, 6, 2):
        agreement.update(student[start : start + 2], teacher[start : start + 2])
    scores = agreement.compute()
    labels, truth = student.argmax(1).flatten(), teacher.argmax(1).flatten()
    kl = rel_entr(softmax(teacher.double().numpy(), 1), softmax(student.double().numpy(), 1))
    assert scores.mean_kl == pytest.approx(kl.sum(1).mean(), rel=1e-5)
    assert scores.argmax_agreement == pytest.approx((labels == truth).double().mean().item())
    assert scores.miou == pytest.approx(jaccard_score(truth, labels, average="macro"))


def test_with_more_than_255_classes_none_is_taken_for_ignored():
    logits = torch.eye(300)
    assert agreement_of(logits, logits).compute().positions == 300


def test_sums_of_two_processes_add_up():
    student, teacher = _pair(4, 3, seed=2)
    first, second = (agreement_of(student[r], teacher[r]) for r in (slice(1), slice(1, 4)))
    both, whole = first + second, agreement_of(student, teacher)
    assert torch.equal(both.counts, whole.counts)
    assert both.kl_sum == pytest.approx(whole.kl_sum)
    with pytest.raises(ValueError, match="one number of classes, got 3 and 2"):
        first + Agreement(2)


def test_before_the_first_batch_scores_are_nan_and_none_in_json():
    assert Agreement(2).compute().to_dict() == {
        "argmax_agreement": None,
        "mean_kl": None,
        "miou": None,
        "positions": 0,
    }
    assert np.isnan(Agreement(2).compute().mean_kl)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), "one shape"),
        (torch.zeros(2, 4), torch.zeros(2, 4), r"\(B, 3, …\)"),
    ],
)
def test_wrong_batches_are_refused(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        Agreement(3).update(student, teacher)


def test_no_class_is_refused():
    with pytest.raises(ValueError, match="at least 1 class"):
        Agreement(0)


def test_the_docstrings_examples_hold():
    assert doctest.testmod(module).failed == 0
