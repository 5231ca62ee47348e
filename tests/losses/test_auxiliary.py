import math

import pytest
import torch
from torch.nn import functional as F

from fmce.losses.auxiliary import (
    feature_matching_loss,
    fmcs_loss,
    representation_auxiliary_loss,
    ridge_probe_error,
)

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


def left_out_errors(x: torch.Tensor, targets: torch.Tensor, classes: int) -> list[float]:
    """Fit a ridge regression without each image in turn, and judge that image by it."""
    variance = x.var(0, unbiased=False)
    x = (x - x.mean(0)) / (variance + 1e-3 * variance.mean()).sqrt()
    penalty = 0.03 * len(x) * max(1, x.shape[1] / len(x))
    wanted, errors = F.one_hot(targets, classes).double(), []
    for out in range(len(x)):
        rest = [i for i in range(len(x)) if i != out]
        a, b = x[rest] - x[rest].mean(0), wanted[rest] - wanted[rest].mean(0)
        weights = torch.linalg.solve(a.T @ a + penalty * torch.eye(x.shape[1]).double(), a.T @ b)
        pred = (x[out] - x[rest].mean(0)) @ weights + wanted[rest].mean(0)
        errors.append(float((pred - wanted[out]).square().sum()))
    return errors


@pytest.mark.parametrize("channels", [3, 20])
def test_the_probe_judges_each_image_by_a_fit_to_all_others(channels: int) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(12, channels, generator=draw, dtype=torch.float64)
    targets = torch.arange(12) % 4
    expected = sum(left_out_errors(x, targets, 5)) / 12
    assert ridge_probe_error(x, targets, 5).item() == pytest.approx(expected)
    maps = x[:, :, None, None] + torch.tensor([[-1.0, 1.0]]).double()
    assert ridge_probe_error(maps, targets, 5).item() == pytest.approx(expected)


@pytest.mark.parametrize("channels", [3, 9])
def test_the_probes_error_has_the_right_gradient(channels: int) -> None:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(6, channels, generator=draw, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda maps: ridge_probe_error(maps, targets, 3), x)


def test_a_step_down_the_probes_gradient_tells_classes_better() -> None:
    draw = torch.Generator().manual_seed(2)
    maps = torch.randn(40, 8, 2, 2, generator=draw, requires_grad=True)
    targets = torch.arange(40) % 4
    before = ridge_probe_error(maps, targets, 4)
    before.backward()
    after = ridge_probe_error(maps.detach() - 20 * maps.grad, targets, 4)
    assert before > 0.7
    assert after < before - 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dead_channels_equal_maps_and_single_images_keep_the_probe_finite(
    dtype: torch.dtype,
) -> None:
    targets = torch.arange(8) % 2
    for maps in (torch.zeros(8, 4), torch.eye(4).repeat(2, 2), torch.ones(1, 4)):
        x = maps.to(dtype).requires_grad_()
        error = ridge_probe_error(x, targets[: len(maps)], 2)
        error.backward()
        assert error.dtype == torch.float32
        assert torch.isfinite(error)
        assert torch.isfinite(x.grad).all()
    assert error == 0


def test_the_probe_refuses_what_are_no_maps_of_the_targets() -> None:
    for maps in (torch.zeros(3, 2, 2), torch.zeros(4, 2)):
        with pytest.raises(ValueError, match=r"expected maps \(B,C,h,w\) or \(B,C\)"):
            ridge_probe_error(maps, torch.zeros(3, dtype=torch.long), 2)
