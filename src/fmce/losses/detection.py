"""Losses of detectors with FCOS outputs (Tian et al., ICCV 2019): from labels, and by function matching.

"Effectiveness of Function Matching in Driving Scene Recognition" (2022) gives no formula for detection.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from fmce.models.detection import DetectionOutput


class DetectionLosses(NamedTuple):
    """The three parts of a loss, scalars whose sum is minimised.

    Attributes:
        classes: Of the class logits.
        boxes: Of the boxes, by GIoU.
        centerness: Of the centerness logits.
        divisor: What each part was divided by, unless it is below 1.
    """

    classes: Tensor
    boxes: Tensor
    centerness: Tensor
    divisor: Tensor

    def total(self) -> Tensor:
        """Return the sum of the parts."""
        return self.classes + self.boxes + self.centerness

    def parts(self) -> dict[str, Tensor]:
        """Return the parts by name."""
        return {"classes": self.classes, "boxes": self.boxes, "centerness": self.centerness}


def detection_distillation(student: DetectionOutput, teacher: DetectionOutput) -> DetectionLosses:
    """Compute the distance of a student's detections from its teacher's, at every location of every level.

    Not given in the slides, which name function matching for detection without a formula. With p the
    class probabilities, c the centerness and w = √(max_k p_k · c) of the teacher: classes: Σ BCE(student's
    p, teacher's p) over locations and classes; boxes: Σ w · GIoU loss of the student's box to the
    teacher's; centerness: Σ w · BCE(student's c, teacher's c). Each is divided by Σ w over the batch, at
    least 1. Computed in float32 also under autocast. No label is used, and no gradient reaches the teacher.

    Args:
        student: Outputs for a batch: class logits (B, A, C), distances (B, A, 4), centerness (B, A).
        teacher: Outputs for the same view, with the same locations and classes.

    Returns:
        The three parts in float32, each at least 0, and Σ w.

    Raises:
        ValueError: If the shapes or levels differ.

    >>> teacher = DetectionOutput(
    ...     torch.full((1, 1, 2), 9.0), torch.full((1, 1, 4), 5.0), torch.full((1, 1), 9.0),
    ...     torch.zeros(1, 2), torch.ones(1), (1,),
    ... )
    >>> losses = detection_distillation(teacher._replace(distances=torch.ones(1, 1, 4)), teacher)
    >>> round(losses.boxes.item(), 2)  # 1 − GIoU of a box of 2×2 in one of 10×10
    0.96
    """
    check_same_places(student, teacher)
    wanted_classes = teacher.class_logits.detach().float().sigmoid()
    wanted_centerness = teacher.centerness_logits.detach().float().sigmoid()
    weight = (wanted_classes.amax(2) * wanted_centerness).sqrt()  # (B,A)
    divisor = weight.sum()
    total = divisor.clamp(min=1)
    classes = F.binary_cross_entropy_with_logits(
        student.class_logits.float(), wanted_classes, reduction="sum"
    )
    # GIoU does not change when both boxes are shifted, so the location itself cancels.
    boxes = generalized_box_iou_loss(
        _around_origin(student.distances), _around_origin(teacher.distances.detach())
    )
    centerness = F.binary_cross_entropy_with_logits(
        student.centerness_logits.float(), wanted_centerness, weight, reduction="sum"
    )
    boxes = (weight * boxes).sum()
    return DetectionLosses(classes / total, boxes / total, centerness / total, divisor)


def check_same_places(student: DetectionOutput, teacher: DetectionOutput) -> None:
    """Refuse outputs that cannot be compared location by location.

    Raises:
        ValueError: If classes, levels or images differ.
    """
    mine, other = (tuple(output.class_logits.shape) for output in (student, teacher))
    if mine != other or student.level_sizes != teacher.level_sizes:
        raise ValueError(
            "expected student and teacher with the same images, classes and levels, got class logits "
            f"{mine} over levels of {student.level_sizes} locations and {other} over {teacher.level_sizes}; "
            "give both the same strides"
        )


def _around_origin(distances: Tensor) -> Tensor:
    """Return boxes (…, 4) of a location at 0, 0."""
    return distances.float() * distances.new_tensor([-1, -1, 1, 1], dtype=torch.float32)


def fcos_losses(output: DetectionOutput, boxes: Tensor, labels: Tensor) -> DetectionLosses:
    """Compute torchvision's FCOS losses: focal, GIoU and centerness, each over positive locations.

    Args:
        output: Outputs for a batch.
        boxes: Float (B, M, 4), x1, y1, x2, y2 in pixels, padded to the most boxes per image.
        labels: Int (B, M), 0 … C − 1, or −1 where there is no box.

    Raises:
        ValueError: If the boxes' shape does not fit.
    """
    if boxes.shape != (*labels.shape, 4) or len(labels) != len(output.class_logits):
        raise ValueError(
            f"expected boxes (B, M, 4) and labels (B, M) for {len(output.class_logits)} images, got "
            f"{tuple(boxes.shape)} and {tuple(labels.shape)}"
        )
    matched = assign_boxes(output, boxes, labels)  # (B,A)
    image, place = (matched >= 0).nonzero(as_tuple=True)  # (P,) each, P positive locations
    box = matched[image, place]  # (P,)
    wanted_classes = torch.zeros_like(output.class_logits, dtype=torch.float32)
    wanted_classes[image, place, labels[image, box].long()] = 1.0
    wanted = _distances_to(boxes[image, box], output.locations[place])  # (P,4)
    distances = output.distances[image, place].float()
    count = max(1, len(box))
    centerness = F.binary_cross_entropy_with_logits(
        output.centerness_logits[image, place].float(), _centerness(wanted), reduction="sum"
    )
    classes = sigmoid_focal_loss(output.class_logits.float(), wanted_classes, reduction="sum")
    shapes = generalized_box_iou_loss(
        _around_origin(distances), _around_origin(wanted), reduction="sum"
    )
    divisor = torch.full_like(classes, len(box))
    return DetectionLosses(classes / count, shapes / count, centerness / count, divisor)


def _centerness(distances: Tensor) -> Tensor:
    """Return √(min/max of left and right · min/max of top and bottom) of distances (…, 4)."""
    across, down = distances[..., 0::2], distances[..., 1::2]
    ratio = (across.amin(-1) / across.amax(-1)) * (down.amin(-1) / down.amax(-1))
    return ratio.sqrt()


def _distances_to(boxes: Tensor, locations: Tensor) -> Tensor:
    """Return the distances (…, 4) from locations (…, 2) to the sides of boxes (…, 4)."""
    return torch.cat([locations - boxes[..., :2], boxes[..., 2:] - locations], dim=-1)


@torch.no_grad()
def assign_boxes(
    output: DetectionOutput, boxes: Tensor, labels: Tensor, center_radius: float = 1.5
) -> Tensor:
    """Assign a box to each location, as torchvision's FCOS does: int64 (B, A), its index or −1.

    A location takes the smallest box that it lies in, whose centre is within `center_radius` strides
    of it, and whose farthest side is 4 to 8 strides away (the finest level also takes nearer sides,
    the coarsest farther ones). Boxes and labels are as for `fcos_losses`.
    """
    if boxes.shape[1] == 0:
        return labels.new_full((len(boxes), len(output.locations)), -1, dtype=torch.int64)
    # Least and largest distance of the farthest side of a box, by location: (A,1).
    nearest, farthest = 4 * output.strides[:, None], 8 * output.strides[:, None]
    nearest[: output.level_sizes[0]] = 0
    farthest[len(farthest) - output.level_sizes[-1] :] = torch.inf
    places, strides = output.locations[:, None], output.strides[:, None]  # (A,1,2), (A,1)
    centres = (boxes[..., :2] + boxes[..., 2:])[:, None] / 2  # (B,1,M,2)
    match = (places - centres).abs().amax(-1) < center_radius * strides  # (B,A,M)
    distances = _distances_to(boxes[:, None], places)  # (B,A,M,4)
    reach = distances.amax(-1)
    match &= (distances.amin(-1) > 0) & (reach > nearest) & (reach < farthest)
    match &= (labels >= 0)[:, None]
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)[:, None].expand(match.shape)
    smallest, which = area.masked_fill(~match, torch.inf).min(-1)
    return which.masked_fill(smallest.isinf(), -1)
