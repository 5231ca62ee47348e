"""Distillation losses: hand-worked values, scipy as a second opinion, gradients, ignored pixels."""

import doctest
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax

from fmce.losses import distillation as module
from fmce.losses.distillation import (
    kl_distillation,
    mixup,
    sample_mixup,
    segmentation_cross_entropy,
)


def _logits(*shape, seed=0, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_kl_has_the_value_worked_out_by_hand():
    # p = (1/2, 1/2), q = (1/4, 3/4): KL = ½ ln 2 + ½ ln ⅔ = ½ ln 4/3.
    student = torch.tensor([[0.0, math.log(3.0)]])
    loss = kl_distillation(student, torch.zeros(1, 2))
    assert loss.item() == pytest.approx(0.5 * math.log(4 / 3), abs=1e-6)


def test_kl_is_taken_from_teacher_to_student_not_back():
    # p = (1/4, 3/4), q = (1/2, 1/2): KL(p‖q) = ¼ ln ½ + ¾ ln 3/2.
    teacher = torch.tensor([[0.0, math.log(3.0)]])
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert kl_distillation(torch.zeros(1, 2), teacher).item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([(4, 3), (2, 5, 3, 4), (1, 2, 7)]),
    st.integers(0, 99),
    st.sampled_from([0.5, 1.0, 4.0]),
)
def test_kl_agrees_with_scipy_at_every_shape_and_temperature(shape, seed, temperature):
    student, teacher = _logits(*shape, seed=seed), _logits(*shape, seed=seed + 100)
    p = softmax(teacher.double().numpy() / temperature, axis=1)
    q = softmax(student.double().numpy() / temperature, axis=1)
    expected = temperature**2 * rel_entr(p, q).sum(axis=1).mean()
    assert kl_distillation(student, teacher, temperature).item() == pytest.approx(
        expected, rel=1e-4
    )


def test_the_gradient_is_the_difference_of_the_softmaxes():
    student, teacher = _logits(2, 4, 3, 5).requires_grad_(), _logits(2, 4, 3, 5, seed=1)
    kl_distillation(student, teacher, 2.0).backward()
    expected = 2.0 * ((student / 2).softmax(1) - (teacher / 2).softmax(1)) / (2 * 3 * 5)
    torch.testing.assert_close(student.grad, expected.detach())


def test_the_gradient_agrees_with_finite_differences():
    student = _logits(3, 4).double().requires_grad_()
    teacher = _logits(3, 4, seed=1).double()
    valid = torch.tensor([True, False, True])
    assert torch.autograd.gradcheck(
        lambda s: kl_distillation(s, teacher, 1.7, valid=valid), (student,)
    )


def test_no_gradient_reaches_the_teacher():
    student, teacher = _logits(2, 3).requires_grad_(), _logits(2, 3, seed=1).requires_grad_()
    kl_distillation(student, teacher).backward()
    assert teacher.grad is None


def test_equal_logits_up_to_a_shift_lose_nothing():
    teacher = _logits(2, 5, 4, 4)
    assert kl_distillation(teacher + 7.0, teacher).item() == pytest.approx(0.0, abs=1e-5)


def test_chunks_do_not_change_loss_or_gradient(monkeypatch):
    whole, parts = _logits(5, 3, 4, 4).requires_grad_(), _logits(5, 3, 4, 4).requires_grad_()
    teacher = _logits(5, 3, 4, 4, seed=1)
    loss = kl_distillation(whole, teacher)
    loss.backward()
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 100)
    again = kl_distillation(parts, teacher)
    again.backward()
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(parts.grad, whole.grad)


def test_only_valid_positions_count_even_where_the_others_are_nan():
    student, teacher = _logits(2, 3, 2, 2), _logits(2, 3, 2, 2, seed=1)
    valid = torch.tensor([[[True, False], [True, True]], [[False, False], [True, False]]])
    expected = kl_distillation(
        student.movedim(1, -1)[valid], teacher.movedim(1, -1)[valid]
    )  # (4, 3): the four valid pixels as a batch
    student.movedim(1, -1)[~valid] = float("nan")
    student.requires_grad_()
    loss = kl_distillation(student, teacher, valid=valid)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert not student.grad.isnan().any()


def test_with_no_valid_position_the_loss_is_zero_with_a_gradient():
    student = _logits(2, 3, 2, 2).requires_grad_()
    loss = kl_distillation(student, _logits(2, 3, 2, 2), valid=torch.zeros(2, 2, 2).bool())
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad.count_nonzero() == 0


def test_half_logits_are_computed_in_float32_and_get_gradients_in_their_own_dtype():
    student, teacher = _logits(2, 6, 5, 5).bfloat16(), _logits(2, 6, 5, 5, seed=1).bfloat16()
    student.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = kl_distillation(student, teacher)
    loss.backward()
    assert loss.dtype == torch.float32
    assert student.grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss, kl_distillation(student.float(), teacher.float()))


def test_tiny_gradients_of_half_logits_survive_a_loss_scale():
    # 1/N alone is below float16's smallest number for N > 1.7e7; scaled by 2^16 it is not.
    student = _logits(1, 2, 64, 64).half().requires_grad_()
    (kl_distillation(student, -student.detach()) * 1e-5 * 2.0**16).backward()
    reference = _logits(1, 2, 64, 64).half().float().requires_grad_()
    (kl_distillation(reference, -reference.detach()) * 1e-5 * 2.0**16).backward()
    torch.testing.assert_close(student.grad.float(), reference.grad, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("student", "teacher", "options", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), {}, "one shape"),
        (torch.zeros(3), torch.zeros(3), {}, "one shape"),
        (torch.zeros(2, 3), torch.zeros(2, 3), {"temperature": 0.0}, "temperature above 0"),
        (torch.zeros(2, 3), torch.zeros(2, 3), {"temperature": float("nan")}, "temperature"),
        (torch.zeros(2, 3), torch.zeros(2, 3).long(), {}, "floating point"),
        (torch.zeros(2, 3), torch.zeros(2, 3), {"valid": torch.ones(2)}, "bool"),
        (torch.zeros(2, 3), torch.zeros(2, 3), {"valid": torch.ones(3).bool()}, r"\(2,\)"),
    ],
)
def test_wrong_distillation_arguments_are_refused(student, teacher, options, message):
    with pytest.raises(ValueError, match=message):
        kl_distillation(student, teacher, **options)


def test_mixup_blends_each_image_with_the_one_before_it():
    images = torch.tensor([0.0, 10.0, 20.0]).reshape(3, 1, 1, 1).expand(3, 3, 2, 2)
    mixed = mixup(images, 0.9)
    torch.testing.assert_close(mixed[:, 0, 0, 0], torch.tensor([2.0, 9.0, 19.0]))


def test_mixup_with_weight_one_changes_nothing_and_mixes_no_batch_of_one():
    images = _logits(3, 3, 4, 4)
    torch.testing.assert_close(mixup(images, 1.0), images, rtol=0, atol=0)
    torch.testing.assert_close(mixup(images[:1], 0.6), images[:1])


def test_mixup_weights_are_uniform_folded_above_one_half_and_repeat_by_seed():
    first = [sample_mixup(g) for g in [torch.Generator().manual_seed(3)] for _ in range(2000)]
    again = [sample_mixup(g) for g in [torch.Generator().manual_seed(3)] for _ in range(2000)]
    assert first == again
    assert min(first) >= 0.5
    # max(λ, 1 − λ) of a uniform λ is uniform on [0.5, 1]: mean 0.75, sd 1/√48.
    assert np.mean(first) == pytest.approx(0.75, abs=4 / math.sqrt(48 * 2000))
    assert np.std(first) == pytest.approx(1 / math.sqrt(48), rel=0.05)


def test_wrong_mixup_arguments_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\], got 1.2"):
        mixup(torch.zeros(2, 3), 1.2)
    with pytest.raises(ValueError, match="floating point images"):
        mixup(torch.zeros(2, 3, dtype=torch.uint8), 0.5)


def test_cross_entropy_agrees_with_scipy_over_labelled_pixels():
    logits, auxiliary = _logits(2, 4, 3, 3), _logits(2, 4, 3, 3, seed=1)
    targets = torch.randint(0, 4, (2, 3, 3), generator=torch.Generator().manual_seed(2))
    targets[0, 0] = 255

    def mean(values):
        log_q = np.moveaxis(log_softmax(values.double().numpy(), axis=1), 1, -1)
        picked = [log_q[i][targets[i]] for i in np.ndindex(2, 3, 3) if targets[i] != 255]
        return -sum(picked) / len(picked)

    loss = segmentation_cross_entropy(logits, targets, auxiliary)
    assert loss.item() == pytest.approx(mean(logits) + 0.4 * mean(auxiliary), rel=1e-5)
    assert segmentation_cross_entropy(logits, targets).item() == pytest.approx(
        mean(logits), rel=1e-5
    )


def test_uint8_targets_as_read_from_masks_are_taken():
    targets = torch.tensor([[[0, 1], [255, 2]]], dtype=torch.uint8)
    loss = segmentation_cross_entropy(torch.zeros(1, 3, 2, 2), targets)
    assert loss.item() == pytest.approx(math.log(3), rel=1e-6)


def test_with_every_pixel_ignored_cross_entropy_is_zero_with_a_zero_gradient():
    logits = _logits(1, 3, 2, 2).requires_grad_()
    loss = segmentation_cross_entropy(logits, torch.full((1, 2, 2), 255), logits * 2)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.count_nonzero() == 0


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        (torch.zeros(1, 2, 3).long(), {}, "integer targets"),
        (torch.zeros(1, 2, 2), {}, "integer targets"),
        (torch.zeros(1, 2, 2).long(), {"auxiliary_weight": -1.0}, "auxiliary weight"),
        (
            torch.zeros(1, 2, 2).long(),
            {"auxiliary_logits": torch.zeros(1, 4, 2, 2)},
            "auxiliary logits",
        ),
    ],
)
def test_wrong_cross_entropy_arguments_are_refused(targets, options, message):
    with pytest.raises(ValueError, match=message):
        segmentation_cross_entropy(torch.zeros(1, 3, 2, 2), targets, **options)


def test_the_docstrings_examples_hold():
    assert doctest.testmod(module).failed == 0
