import math

import pytest
import torch
from torch.nn import functional as F

from fmce.losses.auxiliary import feature_matching_loss, fmcs_loss, representation_auxiliary_loss

# Phase probabilities of two maps, and so L_FMCS towards phase 3 = −(ln 0.5 + ln 0.1)/2.
LOGITS = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]).log()
LAST = -(math.log(0.5) + math.log(0.1)) / 2


def test_fmcs_loss_is_minus_the_mean_log_probability_of_the_last_phase() -> None:
    assert fmcs_loss(LOGITS).item() == pytest.approx(LAST)
    assert fmcs_loss(LOGITS, target_phase=1).item() == pytest.approx(
        -(math.log(0.2) + math.log(0.6)) / 2
    )


def test_fmcs_loss_agrees_with_cross_entropy() -> None:
    logits = 5 * torch.randn(16, 10, generator=torch.Generator().manual_seed(0))
    target = torch.full((16,), 6)
    torch.testing.assert_close(fmcs_loss(logits, 7), F.cross_entropy(logits, target))


@pytest.mark.parametrize("raf", [0.0, 0.25, 0.9, 1.0])
def test_raf_is_the_weight_of_the_task_loss(raf: float) -> None:
    loss = representation_auxiliary_loss(torch.tensor(2.0), LOGITS, raf)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(raf * 2.0 + (1 - raf) * LAST)


def test_raf_1_gives_the_baselines_gradients_exactly() -> None:
    weight = torch.randn(3, requires_grad=True)
    base = weight.square().sum()
    loss = representation_auxiliary_loss(base, weight * LOGITS, raf=1.0)
    (mixed,) = torch.autograd.grad(loss, weight, retain_graph=True)
    (plain,) = torch.autograd.grad(base, weight)
    assert torch.equal(mixed, plain)
    assert torch.equal(loss, base)


def test_gradient_towards_the_target_is_softmax_minus_one_hot() -> None:
    logits = LOGITS.clone().requires_grad_()
    representation_auxiliary_loss(torch.tensor(0.0), logits, 0.5, target_phase=2).backward()
    expected = 0.5 * (LOGITS.exp() - torch.tensor([0.0, 1.0, 0.0])) / 2
    torch.testing.assert_close(logits.grad, expected)


def test_every_nth_step_counts_the_phase_loss_n_fold() -> None:
    loss = representation_auxiliary_loss(torch.tensor(2.0), LOGITS, 0.75, oracle_every=4)
    assert loss.item() == pytest.approx(0.75 * 2.0 + 4 * 0.25 * LAST)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        representation_auxiliary_loss(torch.tensor(2.0), LOGITS, 0.75, oracle_every=0)


@pytest.mark.parametrize("raf", [-0.1, 1.1, math.nan, math.inf])
def test_raf_outside_0_to_1_is_refused(raf: float) -> None:
    with pytest.raises(ValueError, match=r"raf must be in \[0, 1\], got .*task loss"):
        representation_auxiliary_loss(torch.tensor(1.0), LOGITS, raf)


@pytest.mark.parametrize("phase", [0, 4, -1])
def test_a_target_phase_outside_1_to_k_is_refused(phase: int) -> None:
    with pytest.raises(ValueError, match=f"target_phase must be in 1 … 3, got {phase}"):
        representation_auxiliary_loss(torch.tensor(1.0), LOGITS, 0.5, target_phase=phase)


def test_tensors_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scalar base_loss, got shape \(2,\)"):
        representation_auxiliary_loss(torch.zeros(2), LOGITS, 0.5)
    with pytest.raises(ValueError, match=r"phase_logits of shape \(B, K\).*got \(3,\)"):
        fmcs_loss(LOGITS[0])
    with pytest.raises(ValueError, match="B, K >= 1"):
        fmcs_loss(LOGITS[:0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_also_under_autocast(dtype: torch.dtype) -> None:
    logits, maps = LOGITS.to(dtype), torch.full((1, 1, 2, 2), 300.0, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = representation_auxiliary_loss(torch.tensor(1.0, dtype=dtype), logits, 0.5)
        matching = feature_matching_loss(maps, maps / 2)
    assert loss.dtype == matching.dtype == torch.float32
    torch.testing.assert_close(loss, 0.5 + 0.5 * fmcs_loss(logits.float()))
    assert matching.item() == pytest.approx(1.0)  # 300² would overflow float16


def test_float64_stays_float64() -> None:
    loss = representation_auxiliary_loss(torch.tensor(1.0).double(), LOGITS.double(), 0.5)
    assert loss.dtype == torch.float64


def test_feature_matching_is_the_error_over_the_teachers_mean_square() -> None:
    maps, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])
    # ((1−3)² + (2−1)²)/2 over (3² + 1²)/2 = 2.5/5.
    assert feature_matching_loss(maps, teacher).item() == pytest.approx(0.5)
    assert feature_matching_loss(10 * maps, 10 * teacher).item() == pytest.approx(0.5)
    assert feature_matching_loss(teacher, teacher).item() == 0


def test_feature_matching_sends_no_gradient_to_the_teacher() -> None:
    maps = torch.randn(1, 2, 2, 2, requires_grad=True)
    teacher = torch.randn(1, 2, 2, 2, requires_grad=True)
    feature_matching_loss(maps, teacher).backward()
    assert maps.grad is not None
    assert teacher.grad is None


def test_feature_matching_refuses_other_shapes_and_survives_a_zero_teacher() -> None:
    with pytest.raises(ValueError, match=r"got \(1, 2, 2, 2\) and the teacher's \(1, 2, 1, 1\)"):
        feature_matching_loss(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 1, 1))
    zero = torch.zeros(1, 2, 2, 2)
    assert feature_matching_loss(zero, zero).item() == 0
