"""COCO's average precision by faster-coco-eval, and how alike a student and its teacher detect.

Boxes are x1, y1, x2, y2 with x2 and y2 exclusive. What lies in an ignored box is neither right nor wrong.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fmce.metrics.segmentation import none_if_nan

Boxes = Mapping[str, Tensor]
"""Boxes of one image. Truth: "boxes" (n, 4), "labels" (n,) from 0, "ignored" bool (n,). Predictions:
"boxes", "labels", "scores" (n,)."""

_NAMES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)
# A teacher's boxes of at least this score are the truth that its student is compared with.
TEACHER_SCORE = 0.3


@dataclass(frozen=True)
class DetectionScores:
    """COCO's scores, fractions in [0, 1], NaN where there is no box to find.

    Attributes:
        values: By name: ap (mean over IoU .50:.05:.95 and classes), ap50, ap75, ap_small (below 32²
            pixels), ap_medium, ap_large (from 96² on), ar1, ar10, ar100 (recall with so many boxes
            per image) and ar_small to ar_large.
        by_class: AP of each class.
        images: Images evaluated.
        boxes: Boxes to find, without the ignored.
    """

    values: Mapping[str, float]
    by_class: tuple[float, ...]
    images: int
    boxes: int

    @property
    def ap(self) -> float:
        """AP over IoU .50:.95, mean of the classes that have boxes."""
        return self.values["ap"]

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return plain values for JSON, NaN as None, AP by class under "ap_by_class"."""
        named = zip(class_names, self.by_class, strict=True)
        return {
            **{name: none_if_nan(value) for name, value in self.values.items()},
            "ap_by_class": {name: none_if_nan(value) for name, value in named},
            "images": self.images,
            "boxes": self.boxes,
        }


def detection_scores(
    truth: Sequence[Boxes], predictions: Sequence[Boxes], num_classes: int
) -> DetectionScores:
    """Compute COCO's scores with 100 boxes per image.

    A class without a box to find is left out of the means. Of each image the 100 boxes with the highest
    scores count. "ignored" may be left out of the truth.

    Raises:
        ValueError: If the numbers of images differ, a label is out of range or a box is inverted.
        ModuleNotFoundError: If faster-coco-eval is not installed.
    """
    if len(truth) != len(predictions) or not truth:
        raise ValueError(
            f"expected predictions for each of at least one image, got {len(truth)} images with "
            f"truth and {len(predictions)} with predictions"
        )
    for image in (*truth, *predictions):
        _check(image, num_classes)
    annotations = _rows(truth)
    scores = torch.cat([image["scores"] for image in predictions]).tolist()
    scored = zip(_rows(predictions), scores, strict=True)
    results = [row | {"score": score} for row, score in scored]
    evaluation = _evaluate(len(truth), num_classes, annotations, results)
    # Axes: IoU, recall, class, area range, most boxes; −1 marks classes without a box to find.
    by_class = evaluation.eval["precision"][:, :, :, 0, -1].mean(axis=(0, 1))
    return DetectionScores(
        {name: _known(value) for name, value in zip(_NAMES, evaluation.stats[:12], strict=True)},
        tuple(_known(value) for value in by_class),
        len(truth),
        sum(not a["iscrowd"] for a in annotations),
    )


def _known(value: float) -> float:
    return math.nan if value < 0 else float(value)


def _check(image: Boxes, num_classes: int) -> None:
    boxes, labels = image["boxes"], image["labels"]
    if boxes.shape != (len(labels), 4):
        raise ValueError(
            f"expected boxes (n, 4) and labels (n,), got {tuple(boxes.shape)}, {tuple(labels.shape)}"
        )
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        label = int(labels[wrong][0])
        raise ValueError(f"expected labels 0 … {num_classes - 1}, got {label}")
    # A detector may predict an empty box; a negative side is another order of coordinates.
    inverted = (boxes[:, 2:] < boxes[:, :2]).any(1)
    if inverted.any():
        box = boxes[inverted][0].tolist()
        raise ValueError(f"expected boxes as x1, y1, x2, y2 with x1 ≤ x2 and y1 ≤ y2, got {box}")


def _rows(images: Sequence[Boxes]) -> list[dict[str, Any]]:
    """Return COCO's rows for the boxes of each image: left, top, width, height; classes from 1."""
    rows = []
    for number, image in enumerate(images, start=1):
        boxes = image["boxes"].detach().cpu().double()
        corners = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
        ignored = image["ignored"].tolist() if "ignored" in image else [False] * len(corners)
        for box, label, crowd in zip(corners, image["labels"].tolist(), ignored, strict=True):
            row = {"image_id": number, "category_id": label + 1, "bbox": box}
            rows.append({**row, "area": box[2] * box[3], "iscrowd": int(crowd)})
    return rows


def _evaluate(
    images: int, num_classes: int, annotations: list[dict[str, Any]], results: list[dict[str, Any]]
) -> Any:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "detection scores need faster-coco-eval: pip install 'fmce[detect]'"
        ) from error
    truth = COCO(
        {
            "images": [{"id": i + 1} for i in range(images)],
            "categories": [{"id": c + 1, "name": str(c)} for c in range(num_classes)],
            "annotations": [row | {"id": i + 1} for i, row in enumerate(annotations)],
        }
    )
    evaluation = COCOeval_faster(truth, truth.loadRes(results), iouType="bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def teacher_as_truth(predictions: Boxes, least_score: float = TEACHER_SCORE) -> Boxes:
    """Return a teacher's boxes of one image of at least a score, as the truth for its student."""
    keep = predictions["scores"] >= least_score
    return {"boxes": predictions["boxes"][keep], "labels": predictions["labels"][keep]}


def class_kl_sum(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Sum KL(teacher‖student) of the class probabilities, in nats, over places and classes.

    Classes of a detector, of logits (…, C), are independent, so each adds the KL of two coins:
    p·log(p/q) + (1 − p)·log((1 − p)/(1 − q)).

    >>> round(class_kl_sum(torch.tensor([[1.0986123]]), torch.zeros(1, 1)).item(), 4)  # ½ from ¾
    0.1438
    """
    p, q = teacher_logits.double(), student_logits.double()
    log = torch.nn.functional.logsigmoid
    return (p.sigmoid() * (log(p) - log(q)) + (-p).sigmoid() * (log(-p) - log(-q))).sum()


@dataclass
class DetectionAgreement:
    """Collects detections of a student and its teacher over images; needs no label.

    Attributes:
        num_classes: C.
        kl_sum: KL over the locations so far, in nats.
        places: Number of locations so far.
        truth: The teacher's boxes of each image.
        predictions: The student's.
    """

    num_classes: int
    kl_sum: float = 0.0
    places: int = 0
    truth: tuple[Boxes, ...] = ()
    predictions: tuple[Boxes, ...] = ()

    def update(
        self,
        student: Sequence[Boxes],
        teacher: Sequence[Boxes],
        student_logits: Tensor,
        teacher_logits: Tensor,
    ) -> None:
        """Add the predictions for each image of a batch, of the same views, and raw class logits (B, A, C)."""
        self.predictions += tuple(student)
        self.truth += tuple(map(teacher_as_truth, teacher))
        self.kl_sum += class_kl_sum(student_logits, teacher_logits).item()
        self.places += student_logits[..., 0].numel()

    def __add__(self, other: "DetectionAgreement") -> "DetectionAgreement":
        """Return the detections over the images of both."""
        kl_sum, places = self.kl_sum + other.kl_sum, self.places + other.places
        truth, predictions = self.truth + other.truth, self.predictions + other.predictions
        return DetectionAgreement(self.num_classes, kl_sum, places, truth, predictions)

    def compute(self) -> dict[str, float | int | None]:
        """Return AP with the teacher's boxes as truth, mean class KL per location, and what was compared."""
        scores = detection_scores(self.truth, self.predictions, self.num_classes)
        return {
            "ap_to_teacher": none_if_nan(scores.ap),
            "ap50_to_teacher": none_if_nan(scores.values["ap50"]),
            "mean_kl": self.kl_sum / self.places if self.places else None,
            "teacher_boxes": scores.boxes,
            "positions": self.places,
        }
