"""Losses of function matching: KL(teacher‖student) per position, mixup, cross-entropy.

Beyer et al., CVPR 2022, and "Effectiveness of Function Matching in Driving Scene Recognition" (2022).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements worked on at once: bounds the float32 temporaries however large the batch is.
_CHUNK_ELEMENTS = 1 << 23
# Target of a pixel without a label, as in BDD100K and Cityscapes.
IGNORE_INDEX = 255


def _kl_chunk(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return KL per position and its gradient q − p by student / T, both in float32 or wider."""
    dtype = torch.promote_types(student.dtype, torch.float32)
    student, teacher = student.to(dtype), teacher.to(dtype)
    if temperature != 1:
        student, teacher = student / temperature, teacher / temperature
    log_q, log_p = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    p = log_p.exp()
    log_p -= log_q  # in place, as below: at full resolution the time goes into memory traffic
    q_minus_p = log_q.exp_().sub_(p)
    return p.mul_(log_p).sum(dim=1), q_minus_p


class _SummedKL(torch.autograd.Function):
    """Sum of KL over positions; keeps one tensor in the student's dtype for the backward pass.

    Plain autograd would keep both log-softmaxes and the product in float32: at 720 × 1280 with 19
    classes that is 210 MB per image, compared with 35 MB here under bf16.
    """

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, temperature: float, valid: Tensor | None
    ) -> Tensor:
        dtype = torch.promote_types(student.dtype, torch.float32)
        total = torch.zeros((), dtype=dtype, device=student.device)
        keep = ctx.needs_input_grad[0]
        difference = torch.empty_like(student) if keep else None
        step = max(1, _CHUNK_ELEMENTS // max(1, student[:1].numel()))
        for start in range(0, len(student), step):
            rows = slice(start, start + step)
            kl, grad = _kl_chunk(student[rows], teacher[rows], temperature)
            if valid is not None:
                # where, not a product: an ignored position may hold NaN, and NaN · 0 is NaN.
                kl = kl.where(valid[rows], kl.new_zeros(()))
                grad = grad.where(valid[rows].unsqueeze(1), grad.new_zeros(()))
            total += kl.sum()
            if difference is not None:
                difference[rows] = grad
        if difference is not None:
            ctx.save_for_backward(difference)
        ctx.temperature = temperature
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        (difference,) = ctx.saved_tensors
        # The factor stays a float32 scalar: multiplied into a stored fp16 gradient earlier, 1/N
        # would underflow.
        return difference * (grad_output / ctx.temperature), None, None, None


def _check_pair(student: Tensor, teacher: Tensor, temperature: float, valid: Tensor | None) -> None:
    if student.shape != teacher.shape or student.ndim < 2:
        raise ValueError(
            "expected student and teacher logits of one shape (B, C, …), got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}; both must have the same "
            "classes and see the same view"
        )
    if not student.is_floating_point() or not teacher.is_floating_point():
        raise ValueError(f"expected floating point logits, got {student.dtype} and {teacher.dtype}")
    if not temperature > 0:
        raise ValueError(f"expected a temperature above 0, got {temperature}")
    positions = (student.shape[0], *student.shape[2:])
    if valid is not None and (valid.dtype != torch.bool or tuple(valid.shape) != positions):
        raise ValueError(
            f"expected valid as a bool tensor {positions}, got {valid.dtype} {tuple(valid.shape)}"
        )


def kl_distillation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    *,
    valid: Tensor | None = None,
) -> Tensor:
    """Compute T² · mean over positions of KL(softmax(teacher / T) ‖ softmax(student / T)).

    Beyer et al. 2022, section 3; T² keeps the gradient's size comparable across temperatures
    (Hinton et al. 2015). Computed in float32 (float64 for float64 logits) also under autocast. The
    teacher is a constant: no gradient reaches its logits. The gradient with respect to the
    student's is T · (q − p) / N.

    Args:
        student_logits: Float (B, C) or (B, C, H, W), any number of trailing axes.
        teacher_logits: Float, the same shape.
        temperature: T > 0.
        valid: Bool (B,) or (B, H, W), the positions that count; all by default. Without a valid
            position the loss is 0.

    Returns:
        Scalar loss in nats, at least 0 up to rounding.

    Raises:
        ValueError: If shapes differ, logits are integers, the temperature is not above 0, or `valid` is
            not bool of that shape.

    >>> teacher = torch.tensor([[0.0, 0.0]])
    >>> round(kl_distillation(torch.tensor([[0.0, 3.0]]).log_softmax(1), teacher).item(), 4)
    0.8554
    """
    _check_pair(student_logits, teacher_logits, temperature, valid)
    if valid is None:
        count = max(1, student_logits.numel() // student_logits.shape[1])
        positions = torch.tensor(count, device=student_logits.device)
    else:
        positions = valid.sum().clamp(min=1)
    teacher_logits = teacher_logits.detach()
    total: Tensor = _SummedKL.apply(student_logits, teacher_logits, float(temperature), valid)
    return total * (temperature**2 / positions)


def sample_mixup(generator: torch.Generator) -> float:
    """Draw the mixup weight of a batch, in [0.5, 1]: λ ~ Beta(1, 1), that is uniform, then λ ← max(λ, 1 − λ).

    The generator is one of the CPU.

    >>> 0.5 <= sample_mixup(torch.Generator().manual_seed(0)) <= 1
    True
    """
    lam = torch.rand((), generator=generator, dtype=torch.float64).item()
    return max(lam, 1.0 - lam)


def mixup(images: Tensor, lam: float) -> Tensor:
    """Blend every image with the one before it: λ · x_i + (1 − λ) · x_{i−1}, batch rolled by one.

    Beyer et al. 2022, section 3.1: teacher and student both see the blend; no label is mixed.

    Args:
        images: Float (B, …), as is the blend.
        lam: Weight λ of the image itself, in [0, 1].

    Raises:
        ValueError: If λ is outside [0, 1] or the images are not floating point.

    >>> mixup(torch.tensor([[0.0], [1.0], [2.0]]), 0.75).flatten().tolist()
    [0.5, 0.75, 1.75]
    """
    if not 0.0 <= lam <= 1.0:
        raise ValueError(f"expected a mixup weight in [0, 1], got {lam}")
    if not images.is_floating_point():
        raise ValueError(f"expected floating point images, got {images.dtype}; convert them first")
    return torch.lerp(images.roll(1, dims=0), images, lam)


def _mean_cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    total = F.cross_entropy(logits.float(), targets, ignore_index=ignore_index, reduction="sum")
    # A sum over no pixel over 1 is 0 with a zero gradient; PyTorch's own mean would be NaN.
    return total / (targets != ignore_index).sum().clamp(min=1)


def segmentation_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    auxiliary_logits: Tensor | None = None,
    auxiliary_weight: float = 0.4,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Compute mean cross-entropy over labelled pixels, plus 0.4 times the auxiliary head's.

    Zhao et al., CVPR 2017, section 3.3. Computed in float32 also under autocast; 0 nats, with a zero
    gradient, where every pixel is ignored. Class ids are not checked here, which would make the host wait.

    Args:
        logits: Float (B, C, H, W).
        targets: Integer (B, H, W), class ids 0 … C − 1 or `ignore_index`.
        auxiliary_logits: The auxiliary head's logits, same shape as `logits`, or None.
        auxiliary_weight: Weight of the auxiliary term, at least 0.
        ignore_index: Target value left out.

    Raises:
        ValueError: If shapes do not fit, targets are not integers, or the weight is negative.

    >>> targets = torch.full((1, 1, 2), 255)
    >>> segmentation_cross_entropy(torch.zeros(1, 3, 1, 2), targets).item()
    0.0
    """
    positions = (logits.shape[0], *logits.shape[2:])
    if logits.ndim < 3 or tuple(targets.shape) != positions or targets.is_floating_point():
        raise ValueError(
            "expected logits (B, C, H, W) and integer targets (B, H, W), got "
            f"{tuple(logits.shape)} and {targets.dtype} {tuple(targets.shape)}"
        )
    if auxiliary_weight < 0:
        raise ValueError(f"expected an auxiliary weight of at least 0, got {auxiliary_weight}")
    targets = targets.long()
    loss = _mean_cross_entropy(logits, targets, ignore_index)
    if auxiliary_logits is None:
        return loss
    if auxiliary_logits.shape != logits.shape:
        raise ValueError(
            f"expected auxiliary logits {tuple(logits.shape)}, got {tuple(auxiliary_logits.shape)}"
        )
    return loss + auxiliary_weight * _mean_cross_entropy(auxiliary_logits, targets, ignore_index)
