"""Agreement with the teacher: hand-worked values, scipy and scikit-learn over streamed batches."""

import doctest
import math

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from sklearn.metrics import jaccard_score

from fmce.metrics import agreement as module
from fmce.metrics.agreement import (
    Agreement,
    agreement_compute,
    agreement_update,
    empty_agreement,
)


def _pair(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(2 * torch.randn(*shape, generator=generator) for _ in range(2))


def test_a_student_equal_to_its_teacher_agrees_fully():
    _, teacher = _pair(2, 4, 5, 6)
    agreement = Agreement(4)
    agreement.update(teacher + 3.0, teacher)  # a shift of all logits changes no probability
    scores = agreement.compute()
    assert (scores.argmax_agreement, scores.miou, scores.positions) == (1.0, 1.0, 60)
    assert scores.mean_kl == pytest.approx(0.0, abs=1e-6)


def test_two_images_have_the_values_worked_out_by_hand():
    # Teacher (½, ½) → class 0 and (¼, ¾) → class 1; student (¼, ¾) → 1 and the same → 1.
    low, high = 0.0, math.log(3.0)
    teacher = torch.tensor([[low, low], [low, high]])
    student = torch.tensor([[low, high], [low, high]])
    scores = agreement_compute(agreement_update(empty_agreement(2), student, teacher))
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


def test_only_valid_positions_count():
    student, teacher = _pair(2, 3, 4, 4)
    valid = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    masked = agreement_update(empty_agreement(3), student, teacher, valid=valid)
    picked = agreement_update(
        empty_agreement(3), student.movedim(1, -1)[valid], teacher.movedim(1, -1)[valid]
    )
    assert torch.equal(masked.counts, picked.counts)
    assert masked.kl_sum.item() == pytest.approx(picked.kl_sum.item(), rel=1e-6)


def test_with_more_than_255_classes_none_is_taken_for_ignored():
    logits = torch.eye(300)
    agreement = Agreement(300)
    agreement.update(logits, logits)
    assert agreement.compute().positions == 300


def test_states_of_two_processes_add_up():
    student, teacher = _pair(4, 3, seed=2)
    first = agreement_update(empty_agreement(3), student[:1], teacher[:1])
    second = agreement_update(empty_agreement(3), student[1:], teacher[1:])
    whole = agreement_update(empty_agreement(3), student, teacher)
    assert torch.equal((first + second).counts, whole.counts)
    assert (first + second).kl_sum.item() == pytest.approx(whole.kl_sum.item())
    with pytest.raises(ValueError, match="one number of classes, got 3 and 2"):
        first + empty_agreement(2)


def test_before_the_first_batch_scores_are_nan_and_none_in_json():
    assert Agreement(2).compute().to_dict() == {
        "argmax_agreement": None,
        "mean_kl": None,
        "miou": None,
        "positions": 0,
    }
    assert np.isnan(Agreement(2).compute().mean_kl)


def test_updating_keeps_no_graph():
    student, teacher = _pair(2, 3)
    agreement = Agreement(3)
    agreement.update(student.requires_grad_(), teacher)
    assert not agreement.state.kl_sum.requires_grad


@pytest.mark.parametrize(
    ("student", "teacher", "valid", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), None, "one shape"),
        (torch.zeros(2, 4), torch.zeros(2, 4), None, r"\(B, 3, …\)"),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2), "bool"),
    ],
)
def test_wrong_batches_are_refused(student, teacher, valid, message):
    with pytest.raises(ValueError, match=message):
        Agreement(3).update(student, teacher, valid=valid)


def test_no_class_is_refused():
    with pytest.raises(ValueError, match="at least 1 class"):
        Agreement(0)


def test_the_docstrings_examples_hold():
    assert doctest.testmod(module).failed == 0
