"""Losses of FMCE-Net++: the representation auxiliary loss (Eq. 5) and its parts, as functions of tensors."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def _in_float32(values: Tensor) -> Tensor:
    """Widen half precision, where log-probabilities and squares lose too many digits."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def fmcs_loss(phase_logits: Tensor, target_phase: int | None = None) -> Tensor:
    """Compute how far feature maps are from the target phase, L_FMCS = −mean log q_target(map).

    FMCE-Net++ paper, Eq. 4: cross-entropy of the frozen FMCE-Net towards the last phase, K; a scalar in
    nats, in float32 (float64 for float64 logits).

    Args:
        phase_logits: (B, K) logits of FMCE-Net, B and K at least 1; index = phase − 1.
        target_phase: Phase in 1 … K; None is K, as in the paper.

    Raises:
        ValueError: If the logits are not (B, K) or the target phase is outside 1 … K.

    >>> round(fmcs_loss(torch.zeros(4, 10)).item(), 4)  # ln 10
    2.3026
    """
    if phase_logits.ndim != 2 or 0 in phase_logits.shape:
        raise ValueError(
            f"expected phase_logits of shape (B, K) with B, K >= 1, got "
            f"{tuple(phase_logits.shape)}; pass FMCE-Net's output for one batch"
        )
    num_phases = phase_logits.shape[1]
    phase = num_phases if target_phase is None else target_phase
    if not 1 <= phase <= num_phases:
        raise ValueError(
            f"target_phase must be in 1 … {num_phases}, got {target_phase}; phases count from 1"
        )
    return -_in_float32(phase_logits).log_softmax(dim=1)[:, phase - 1].mean()


def representation_auxiliary_loss(
    base_loss: Tensor,
    phase_logits: Tensor,
    raf: float,
    target_phase: int | None = None,
    *,
    oracle_every: int = 1,
) -> Tensor:
    """Mix the task loss with the phase loss, L = raf · L_base + oracle_every · (1 − raf) · L_FMCS.

    FMCE-Net++ paper, Eq. 5. The equation prints the two weights the other way round, but every
    experiment there has RAF = 1 as the plain baseline, so `raf` (representation auxiliary factor)
    is the weight of the task loss.

    Args:
        base_loss: Scalar task loss, as cross-entropy in nats.
        phase_logits: (B, K) logits of the frozen FMCE-Net for this batch's maps.
        raf: Weight of the task loss in [0, 1]; 1 is training without the auxiliary loss.
        target_phase: Phase in 1 … K that maps are pulled to; None is K.
        oracle_every: n, if only every n-th step has this loss and the others have raf · L_base alone. The weight
            n makes the mean gradient over n steps the published one.

    Returns:
        Scalar in float32 (float64 for float64 inputs).

    Raises:
        ValueError: If `raf` is outside [0, 1] or NaN, `oracle_every` is below 1, `base_loss` is not a scalar, or
            as in `fmcs_loss`.

    >>> loss = representation_auxiliary_loss(torch.tensor(1.0), torch.zeros(4, 10), raf=0.9)
    >>> round(loss.item(), 4)  # 0.9 · 1 + 0.1 · ln 10
    1.1303
    """
    if math.isnan(raf) or not 0 <= raf <= 1:
        raise ValueError(
            f"raf must be in [0, 1], got {raf}; it is the weight of the task loss (1 = baseline)"
        )
    if oracle_every < 1:
        raise ValueError(
            f"oracle_every must be at least 1, got {oracle_every}; 1 has the phase loss in each step"
        )
    if base_loss.ndim != 0:
        raise ValueError(
            f"expected a scalar base_loss, got shape {tuple(base_loss.shape)}; average it over the batch first"
        )
    # Not given in the paper, which knows oracle_every = 1 only.
    weight = oracle_every * (1 - raf)
    return raf * _in_float32(base_loss) + weight * fmcs_loss(phase_logits, target_phase)


def feature_matching_loss(
    maps: Tensor, teacher_maps: Tensor, mean_square: Tensor | None = None
) -> Tensor:
    """Compute mean squared error to the teacher's maps, divided by their mean square.

    Not given in the paper: the control that pulls maps straight to checkpoint E_K's, without an
    FMCE-Net. Dividing makes it free of scale: 0 is equality, 1 what all-zero maps would get.

    Args:
        maps: Maps of the network in training, any shape, usually (B, C, H, W).
        teacher_maps: Maps of checkpoint E_K for the same images, same shape; taken as constants.
        mean_square: Scalar, mean square of the teacher's maps of the complete batch, where these are a part of it;
            None takes that of these maps.

    Raises:
        ValueError: If the shapes differ or the maps are empty.

    >>> feature_matching_loss(torch.zeros(2, 1, 1, 1), torch.full((2, 1, 1, 1), 3.0))
    tensor(1.)
    """
    if maps.shape != teacher_maps.shape or maps.numel() == 0:
        raise ValueError(
            f"expected non-empty maps of one shape, got {tuple(maps.shape)} and the teacher's "
            f"{tuple(teacher_maps.shape)}; capture the same module for the same images"
        )
    teacher = _in_float32(teacher_maps.detach())
    # An all-zero teacher would divide by zero. A clamp, since reading the value would make a GPU wait.
    square = teacher.square().mean() if mean_square is None else mean_square.to(teacher.dtype)
    scale = square.clamp_min(torch.finfo(teacher.dtype).tiny)
    return F.mse_loss(_in_float32(maps), teacher) / scale


# The penalty of the scorer's ridge probe, per image and unit of variance; not in the papers.
_RIDGE = 0.03


def ridge_probe_error(maps: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Compute how badly a linear probe of the batch separates its classes; a maturity score with a gradient.

    Not given in the papers. A ridge regression from maps, averaged over positions and standardised, to one-hot
    classes; each image is judged by the probe of all others, in closed form: with the hat matrix H the residual
    is (Y − HY)ᵢ / (1 − Hᵢᵢ).

    Args:
        maps: (B, C, h, w), or (B, C) averaged already.
        targets: (B,) class indices.
        num_classes: Number of classes.

    Returns:
        Squared error summed over classes, mean over images; near 1 − 1/classes where no class is separated, 0 where all
        is. 0 for a single image. A scalar in float32 (float64 for float64 maps).

    Raises:
        ValueError: If the shapes do not fit.

    >>> apart = torch.eye(2, dtype=torch.float64).repeat(8, 1)
    >>> bool(ridge_probe_error(apart, torch.arange(16) % 2, 2) < 0.01)
    True
    """
    if maps.ndim not in (2, 4) or targets.shape != maps.shape[:1]:
        raise ValueError(
            f"expected maps (B,C,h,w) or (B,C) and targets (B,), got {tuple(maps.shape)} and {tuple(targets.shape)}"
        )
    with torch.autocast(maps.device.type, enabled=False):
        x = _in_float32(maps)
        x = x.mean(dim=(2, 3)) if x.ndim == 4 else x  # (B,C)
        count, channels = x.shape
        if count < 2:
            return 0 * x.sum()
        x = x - x.mean(0)
        variance = x.square().mean(0)
        # A dead channel must not divide by zero, nor its noise count as much as the others.
        x = x / (variance + 1e-3 * variance.mean() + torch.finfo(x.dtype).tiny).sqrt()
        penalty = _RIDGE * count * max(1.0, channels / count)
        products = x @ x.T
        inverted = products + penalty * torch.eye(count, dtype=x.dtype, device=x.device)
        # The intercept's part of the hat matrix (B,B) is 1/B.
        hat = torch.linalg.solve(inverted, products) + 1 / count
        wanted = F.one_hot(targets, num_classes).to(x.dtype)
        residuals = (wanted - hat @ wanted) / (1 - hat.diagonal())[:, None]
        error: Tensor = residuals.square().sum(1).mean()
    return error
