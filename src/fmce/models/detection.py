"""What a detector returns: raw outputs at every location, and the boxes chosen from them.

After FCOS (Tian et al., ICCV 2019). A custom detector takes part by returning the same form.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class DetectionOutput(NamedTuple):
    """A detector's outputs at each of its A locations; levels one after another, finest first.

    A custom detector returns this for normalised images (B, 3, H, W), in train and in eval mode alike.
    Teacher and student must have the same locations, that is the same strides.

    Attributes:
        class_logits: Float (B, A, C); classes are independent, their probability is the sigmoid.
        distances: Float (B, A, 4), at least 0, in pixels: from the location to the box's left, top,
            right and lower side.
        centerness_logits: Float (B, A).
        locations: Float (A, 2), x and y in pixels.
        strides: Float (A,), pixels between neighbouring locations of the level.
        level_sizes: Locations of each level; they sum to A.
    """

    class_logits: Tensor
    distances: Tensor
    centerness_logits: Tensor
    locations: Tensor
    strides: Tensor
    level_sizes: tuple[int, ...]

    def boxes(self) -> Tensor:
        """Return the box of every location, float (B, A, 4) as x1, y1, x2, y2 in pixels."""
        x, y = self.locations.unbind(1)
        left, top, right, below = self.distances.unbind(2)
        return torch.stack([x - left, y - top, x + right, y + below], dim=2)

    def levels(self) -> list["DetectionOutput"]:
        """Return the outputs of each level by itself."""
        sizes = list(self.level_sizes)
        batched = [t.split(sizes, dim=1) for t in self[:3]]  # type: ignore[no-untyped-call]
        shared = [t.split(sizes) for t in self[3:5]]  # type: ignore[no-untyped-call]
        columns = zip(*batched, *shared, [(size,) for size in sizes], strict=True)
        return [DetectionOutput(*level) for level in columns]


def detection_output(output: Any, images: Tensor, num_classes: int) -> DetectionOutput:
    """Check what a detector of C classes returned for images (B, 3, H, W), and give it back.

    Raises:
        ValueError: If the output is of another type or its shapes do not fit together.
    """
    if not isinstance(output, DetectionOutput):
        raise ValueError(
            "a detector must return an fmce.models.detection.DetectionOutput in train and in eval mode; "
            f"got {type(output).__name__}; wrap the model in one that does"
        )
    batch, places = len(images), len(output.locations)
    boxes = ((batch, places, num_classes), (batch, places, 4), (batch, places))
    wanted = (*boxes, (places, 2), (places,))
    got = tuple(tuple(t.shape) for t in output[:5])
    if got != wanted or sum(output.level_sizes) != places:
        raise ValueError(
            f"expected class logits, distances, centerness, locations and strides of shapes {wanted} "
            f"with level sizes that sum to {places}, got {got} and {output.level_sizes}"
        )
    return output


@torch.no_grad()
def detections(
    output: DetectionOutput,
    image_size: tuple[int, int],
    *,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.6,
    candidates: int = 1000,
    limit: int = 100,
) -> list[dict[str, Tensor]]:
    """Choose boxes from raw outputs: threshold, top candidates per level, clip, suppress by class.

    The score is √(class probability × centerness), as in torchvision.

    Args:
        output: Outputs for a batch.
        image_size: Height and width in pixels that boxes are clipped to.
        score_threshold: Least score, exclusive.
        iou_threshold: Overlap above which the lower score of one class is dropped.
        candidates: Most (location, class) pairs per level before suppression.
        limit: Most boxes per image.

    Returns:
        For each image "boxes" (n, 4), "scores" (n,) falling, and "labels" (n,) int64 from 0.

    >>> output = DetectionOutput(
    ...     torch.full((1, 1, 2), 4.0), torch.full((1, 1, 4), 5.0), torch.full((1, 1), 4.0),
    ...     torch.tensor([[8.0, 8.0]]), torch.tensor([4.0]), (1,),
    ... )
    >>> detections(output, (16, 12))[0]["boxes"].tolist()  # one per class, clipped to 12 pixels
    [[3.0, 3.0, 12.0, 13.0], [3.0, 3.0, 12.0, 13.0]]
    """
    from torchvision.ops import batched_nms, clip_boxes_to_image

    levels = [(level, level.boxes()) for level in output.levels()]
    found = []
    for image in range(len(output.class_logits)):
        best = [_best(*level, image, score_threshold, candidates) for level in levels]
        boxes, scores, labels = (torch.cat(column) for column in zip(*best, strict=True))
        boxes = clip_boxes_to_image(boxes, image_size)
        keep = batched_nms(boxes, scores, labels, iou_threshold)[:limit]
        found.append({"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]})
    return found


def _best(
    level: DetectionOutput, boxes: Tensor, image: int, threshold: float, candidates: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes, scores and labels of a level's best (location, class) pairs in one image."""
    probabilities = level.class_logits[image].float().sigmoid()  # (A,C)
    centerness = level.centerness_logits[image].float().sigmoid()  # (A,)
    scores = (probabilities * centerness[:, None]).sqrt().flatten()
    above = (scores > threshold).nonzero()[:, 0]
    scores, best = scores[above].topk(min(candidates, len(above)))
    pairs = above[best]  # location · C + class
    classes = level.class_logits.shape[2]
    return boxes[image, pairs // classes], scores, pairs % classes
