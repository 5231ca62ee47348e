"""Agreement of a student with its teacher, streamed: argmax, mean KL, mIoU against its labels.

After the function-matching slides (2022), last figure. Needs no label, so it also works on
unlabelled frames; (B, C) logits of a classifier are positions like the pixels of (B, C, H, W).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fmce.metrics.segmentation import confusion, segmentation_scores


@dataclass(frozen=True)
class AgreementState:
    """Sums that agreement is computed from; states of several batches or processes are added.

    Attributes:
        counts: Int64 (C, C), rows the teacher's argmax, columns the student's.
        kl_sum: Float64 scalar, sum of KL(teacher‖student) over positions, in nats.
    """

    counts: Tensor
    kl_sum: Tensor

    def __add__(self, other: "AgreementState") -> "AgreementState":
        """Return the sums over both."""
        if self.counts.shape != other.counts.shape:
            raise ValueError(
                f"expected states of one number of classes, got {len(self.counts)} and "
                f"{len(other.counts)}."
            )
        return AgreementState(self.counts + other.counts, self.kl_sum + other.kl_sum)


@dataclass(frozen=True)
class AgreementScores:
    """How alike two models answer.

    Attributes:
        argmax_agreement: Fraction of positions with the same argmax, in [0, 1].
        mean_kl: Mean of KL(teacher‖student) over positions, in nats.
        miou: mIoU with the teacher's argmax as truth, over the classes the teacher gives, in [0,
            1].
        positions: Positions compared: pixels, or images for a classifier.
    """

    argmax_agreement: float
    mean_kl: float
    miou: float
    positions: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Return plain values for JSON, NaN as None."""
        values = vars(self).items()
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values}


def empty_agreement(num_classes: int) -> AgreementState:
    """Return the state before the first batch.

    Raises:
        ValueError: Fewer than one class.
    """
    if num_classes < 1:
        raise ValueError(f"expected at least 1 class, got {num_classes}.")
    return AgreementState(
        torch.zeros(num_classes, num_classes, dtype=torch.int64),
        torch.zeros((), dtype=torch.float64),
    )


def _kl_sum(student: Tensor, teacher: Tensor, valid: Tensor | None) -> float:
    """Sum KL(teacher‖student) image by image, so that full-resolution logits need little memory."""
    total = 0.0
    for index in range(len(student)):
        log_p = F.log_softmax(teacher[index].float(), dim=0)
        log_q = F.log_softmax(student[index].float(), dim=0)
        kl = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=0)
        total += (kl if valid is None else kl[valid[index]]).double().sum().item()
    return total


@torch.no_grad()
def agreement_update(
    state: AgreementState,
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    valid: Tensor | None = None,
) -> AgreementState:
    """Add a batch.

    Args:
        state: The sums so far, on the CPU.
        student_logits: Float (B, C) or (B, C, H, W), on any device.
        teacher_logits: Float, the same shape and device, from the same view.
        valid: Bool (B,) or (B, H, W), positions that count; None: all.

    Returns:
        The sums with this batch, on the CPU.

    Raises:
        ValueError: Shapes differ, C is not the state's, or `valid` is not bool of that shape.
    """
    num_classes = len(state.counts)
    if student_logits.shape != teacher_logits.shape or student_logits.shape[1:2] != (num_classes,):
        raise ValueError(
            f"expected student and teacher logits of one shape (B, {num_classes}, …), got "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}."
        )
    student_labels, teacher_labels = student_logits.argmax(1), teacher_logits.argmax(1)
    kl_sum = _kl_sum(student_logits, teacher_logits, _checked_valid(valid, student_labels))
    if valid is not None:
        student_labels, teacher_labels = student_labels[valid], teacher_labels[valid]
    # −1 is no class: with the teacher as truth nothing is ignored, whatever the number of classes.
    counts = confusion(student_labels, teacher_labels, num_classes, ignore_index=-1)
    return state + AgreementState(counts.cpu(), torch.tensor(kl_sum, dtype=torch.float64))


def _checked_valid(valid: Tensor | None, labels: Tensor) -> Tensor | None:
    """Return `valid` unchanged after checking it against labels (B,) or (B, H, W).

    Raises:
        ValueError: It is not a bool tensor of the labels' shape.
    """
    if valid is not None and (valid.dtype != torch.bool or valid.shape != labels.shape):
        raise ValueError(
            f"expected valid as a bool tensor {tuple(labels.shape)}, got {valid.dtype} "
            f"{tuple(valid.shape)}."
        )
    return valid


def agreement_compute(state: AgreementState) -> AgreementScores:
    """Compute the scores from the sums; NaN where no position was seen.

    >>> state = empty_agreement(2)
    >>> logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    >>> agreement_compute(agreement_update(state, logits, logits)).argmax_agreement
    1.0
    """
    scores = segmentation_scores(state.counts)
    return AgreementScores(
        argmax_agreement=scores.pixel_accuracy,
        mean_kl=state.kl_sum.item() / scores.pixels if scores.pixels else math.nan,
        miou=scores.miou,
        positions=scores.pixels,
    )


class Agreement:
    """Holds the sums while batches stream by.

    >>> agreement = Agreement(3)
    >>> agreement.update(torch.eye(3), torch.eye(3))
    >>> agreement.compute().positions
    3
    """

    def __init__(self, num_classes: int) -> None:
        self.state = empty_agreement(num_classes)

    def update(
        self, student_logits: Tensor, teacher_logits: Tensor, *, valid: Tensor | None = None
    ) -> None:
        """Add a batch; arguments and errors as in `agreement_update`."""
        self.state = agreement_update(self.state, student_logits, teacher_logits, valid=valid)

    def compute(self) -> AgreementScores:
        """Return the scores over all batches so far."""
        return agreement_compute(self.state)
