"""Segmentation scores from int64 confusion counts, by the rules of the BDD100K benchmark.

mIoU is taken once over the complete set; counts of batches or processes are added before they are scored.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmce.losses.distillation import IGNORE_INDEX

_MOST_CELLS = 2**15


def _ends(values: Tensor) -> tuple[int, int]:
    """Return the least and the largest value, without a search for the least of bytes; (0, 0) of nothing."""
    if not values.numel():
        return 0, 0
    if values.dtype == torch.uint8:
        return 0, int((values.numpy() if values.device.type == "cpu" else values).max())
    lowest, highest = map(int, torch.aminmax(values))
    return lowest, highest


def _refuse_out_of_range(values: Tensor, num_classes: int, what: str, remedy: str) -> None:
    for value in _ends(values):
        if not 0 <= value < num_classes:
            raise ValueError(f"expected {what} in 0 … {num_classes - 1}, got {value}; {remedy}")


def _integers(values: Tensor, what: str) -> Tensor:
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"expected integer {what}, got {values.dtype}; take the argmax of logits")
    return values.flatten()


def _count_pairs(rows: Tensor, columns: Tensor, size: int, width: int) -> Tensor:
    """Count the pairs of values of two flat tensors: int64 (size, width), where all pairs fit in int16."""
    cells = size * width
    if rows.device.type != "cpu":
        found = torch.add(columns.to(torch.int16), rows.to(torch.int16), alpha=width)
        return torch.bincount(found, minlength=cells).reshape(size, width)
    count, lanes = len(rows), 4 if 4 * cells <= _MOST_CELLS else 1
    stored = np.zeros(-(-count // 4) * 4, np.int16)
    pairs = stored[:count]
    np.multiply(rows.numpy(), width, out=pairs, dtype=np.int16)  # converts on the way
    np.add(pairs, columns.numpy(), out=pairs)
    if lanes > 1:
        # Neighbours are often alike, and a count waits for the one before it in the same cell. So pixels take turns
        # in four tables: one int64 addition moves four int16 values to theirs.
        stored.view(np.int64)[:] += sum(lane * cells << 16 * lane for lane in range(lanes))
    counts = torch.bincount(torch.from_numpy(pairs), minlength=lanes * cells)
    return counts.reshape(lanes, size, width).sum(0)


def confusion(
    preds: Tensor, targets: Tensor, num_classes: int, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Count pixels by true and predicted class: int64 (C, C), a row per true class, on the device of `preds`.

    Args:
        preds: Integer, any shape; class ids 0 … C − 1, also where the truth is ignored.
        targets: Integer, the same shape; class ids 0 … C − 1 or `ignore_index`.
        num_classes: C, at least 1.
        ignore_index: Target value left out of the counts.

    Raises:
        ValueError: If shapes differ, values are not integers, or a class id is out of range.

    >>> confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 255]), 2).tolist()
    [[1, 1], [0, 0]]
    """
    if preds.shape != targets.shape:
        shapes = f"{tuple(preds.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"expected preds and targets of one shape, got {shapes}")
    preds, targets = _integers(preds, "preds"), _integers(targets, "targets")
    _refuse_out_of_range(
        preds, num_classes, "predicted class ids", "predictions outside the classes are errors"
    )
    lowest, highest = _ends(targets)
    size, remedy = max(highest + 1, num_classes), f"only {ignore_index} marks ignored pixels"
    if lowest < 0 or size * num_classes > _MOST_CELLS:
        labelled = targets.long() != ignore_index
        targets, preds, size = targets[labelled].long(), preds[labelled].long(), num_classes
        _refuse_out_of_range(targets, num_classes, "true class ids", remedy)
        cells = targets * num_classes + preds
        counts = torch.bincount(cells, minlength=num_classes**2).reshape(size, num_classes)
    else:
        # Every true value gets a row: to count ignored pixels is faster than to leave them out, and int16 takes a
        # third of int64's time.
        counts = _count_pairs(targets, preds, size, num_classes)
    if 0 <= ignore_index < size:
        counts[ignore_index] = 0
    wrong = counts[num_classes:].any(1).nonzero()[-1:] + num_classes
    _refuse_out_of_range(wrong, num_classes, "true class ids", remedy)
    return counts[:num_classes]


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of one confusion matrix; fractions in [0, 1].

    Attributes:
        iou: Per class, intersection over union; NaN for a class absent from the truth.
        miou: Mean of `iou` over the classes present in the truth; NaN without a labelled pixel.
        pixel_accuracy: Fraction of labelled pixels predicted correctly; NaN without one.
        pixels: Labelled pixels counted.
    """

    iou: tuple[float, ...]
    miou: float
    pixel_accuracy: float
    pixels: int

    def to_dict(self, class_names: Sequence[str] | None = None) -> dict[str, Any]:
        """Return plain values for JSON, NaN as None, IoU by class name (by id without names).

        Raises:
            ValueError: If the number of names is not the number of classes.
        """
        names = [str(i) for i in range(len(self.iou))] if class_names is None else class_names
        if len(names) != len(self.iou):
            raise ValueError(f"expected {len(self.iou)} class names, got {len(names)}")
        return {
            "miou": none_if_nan(self.miou),
            "pixel_accuracy": none_if_nan(self.pixel_accuracy),
            "pixels": self.pixels,
            "iou": {n: none_if_nan(v) for n, v in zip(names, self.iou, strict=True)},
        }


def none_if_nan(value: float) -> float | None:
    """Return a value as JSON takes it."""
    return None if math.isnan(value) else value


def segmentation_scores(counts: Tensor) -> SegmentationScores:
    """Score a confusion matrix by BDD100K's rules.

    IoU of class c is counts[c, c] / (row c + column c − counts[c, c]); a class never true is left
    out of mIoU, though pixels wrongly given to it lower the IoU of the classes they belong to.

    Args:
        counts: Integer (C, C), rows true, columns predicted; sums of `confusion` over a set.

    Raises:
        ValueError: If the matrix is not square and integer, or a count is negative.

    >>> segmentation_scores(torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]])).iou[:2]
    (0.75, 0.6666666666666666)
    """
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.is_floating_point():
        raise ValueError(
            f"expected integer counts (C, C), got {counts.dtype} {tuple(counts.shape)}"
        )
    matrix = counts.cpu().long()
    if (matrix < 0).any():
        raise ValueError("expected counts of at least 0, got a negative one (overflow?)")
    hits = matrix.diagonal().tolist()
    truth, predicted = matrix.sum(1).tolist(), matrix.sum(0).tolist()
    iou = tuple(
        h / (t + p - h) if t else math.nan for h, t, p in zip(hits, truth, predicted, strict=True)
    )
    present = [v for v in iou if not math.isnan(v)]
    pixels = sum(truth)
    miou = math.fsum(present) / len(present) if present else math.nan
    return SegmentationScores(iou, miou, sum(hits) / pixels if pixels else math.nan, pixels)
