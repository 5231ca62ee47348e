"""Agreement of a student with its teacher, without labels: argmax, mean KL, mIoU against the teacher's classes.

After the last figure of the function-matching slides (2022). A classifier's logits (B,C) are positions like pixels.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fmce.metrics.segmentation import confusion, none_if_nan, segmentation_scores


@dataclass(frozen=True)
class AgreementScores:
    """How alike two models answer.

    Attributes:
        argmax_agreement: Fraction of positions with the same argmax, in [0, 1].
        mean_kl: Mean of KL(teacher‖student) over positions, in nats.
        miou: mIoU with the teacher's argmax as truth, over the classes that the teacher predicts, in [0, 1].
        positions: Positions compared: pixels, or images for a classifier.
    """

    argmax_agreement: float
    mean_kl: float
    miou: float
    positions: int

    def to_dict(self) -> dict[str, float | None]:
        """Return plain values for JSON, NaN as None."""
        return {name: none_if_nan(value) for name, value in vars(self).items()}


class Agreement:
    """Sums over batches, from which agreement is computed; sums of several processes are added.

    Attributes:
        counts: Int64 (C,C) on the CPU; rows are the teacher's argmax, columns the student's.
        kl_sum: Sum of KL(teacher‖student) over positions, in nats.

    >>> agreement = Agreement(3)
    >>> agreement.update(torch.eye(3), torch.eye(3))
    >>> agreement.compute().argmax_agreement, agreement.compute().positions
    (1.0, 3)
    """

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise ValueError(f"expected at least 1 class, got {num_classes}")
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.kl_sum = 0.0

    @torch.no_grad()
    def update(self, student_logits: Tensor, teacher_logits: Tensor) -> None:
        """Add a batch of logits (B,C) or (B,C,H,W), from one view and on one device.

        Raises:
            ValueError: If the shapes differ, or C is another number of classes.
        """
        classes = len(self.counts)
        shape = student_logits.shape
        if shape != teacher_logits.shape or shape[1:2] != (classes,):
            raise ValueError(
                f"expected student and teacher logits of one shape (B, {classes}, …), got "
                f"{tuple(shape)} and {tuple(teacher_logits.shape)}"
            )
        # −1 is no class: with the teacher as truth nothing is ignored, whatever the number of classes.
        preds, targets = student_logits.argmax(1), teacher_logits.argmax(1)
        self.counts += confusion(preds, targets, classes, ignore_index=-1).cpu()
        kl_sum = 0.0
        # Image by image, so that full-resolution logits need little memory.
        for student, teacher in zip(student_logits, teacher_logits, strict=True):  # (C,) or (C,H,W)
            log_p, log_q = (F.log_softmax(x.float(), dim=0) for x in (teacher, student))
            kl = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=0)
            kl_sum += kl.double().sum().item()
        self.kl_sum += kl_sum

    def __add__(self, other: "Agreement") -> "Agreement":
        """Return the sums over both."""
        if self.counts.shape != other.counts.shape:
            raise ValueError(
                f"expected one number of classes, got {len(self.counts)} and {len(other.counts)}"
            )
        both = Agreement(len(self.counts))
        both.counts, both.kl_sum = self.counts + other.counts, self.kl_sum + other.kl_sum
        return both

    def compute(self) -> AgreementScores:
        """Return the scores over all batches so far; NaN where no position was seen."""
        scores = segmentation_scores(self.counts)
        mean_kl = self.kl_sum / scores.pixels if scores.pixels else math.nan
        return AgreementScores(scores.pixel_accuracy, mean_kl, scores.miou, scores.pixels)
