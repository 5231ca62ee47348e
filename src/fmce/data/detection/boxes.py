"""Boxes of objects in one form, whatever file they come from, and packed as targets of a pool.

A box is x1, y1, x2, y2 in pixels of its image, x2 and y2 exclusive: a box over the pixels 3 … 5 is 3, 6.
Readers convert files that count inclusively.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# x1, y1, x2, y2, label (−1: padding, no box), 1 where the box is to be ignored.
FIELDS = 6
# Not given in the paper: a box of which augmentation or cropping leaves less than this fraction is ignored,
# since its object may no longer be recognisable.
LEAST_VISIBLE = 0.25


class ImageBoxes(NamedTuple):
    """The boxes of one image.

    Attributes:
        boxes: Corners x1, y1, x2, y2 float32 (n,4), x2 and y2 exclusive.
        labels: Class ids from 0, int64 (n,).
        ignored: Regions bool (n,) where predictions are neither right nor wrong (crowds).
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]


def image_boxes(
    boxes: Sequence[Sequence[float]], labels: Sequence[int], ignored: Sequence[bool] | None = None
) -> ImageBoxes:
    """Convert the boxes of an image from plain numbers; without `ignored`, all count."""
    flags = [False] * len(labels) if ignored is None else ignored
    return ImageBoxes(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(labels, np.int64).reshape(-1),
        np.asarray(flags, bool).reshape(-1),
    )


def pack_boxes(images: Sequence[ImageBoxes]) -> Tensor:
    """Stack the boxes of N images as targets of a pool.

    Returns:
        float32 (N,M,6), M the largest number of boxes per image and at least 1; see `FIELDS`.

    >>> pack_boxes([image_boxes([[0, 0, 4, 8]], [2]), image_boxes([], [])])[:, 0, 4].tolist()
    [2.0, -1.0]
    """
    most = max([1, *(len(image.labels) for image in images)])
    packed = torch.zeros(len(images), most, FIELDS)
    packed[:, :, 4] = -1
    for row, image in zip(packed, images, strict=True):
        row[: len(image.labels), :4] = torch.from_numpy(image.boxes)
        row[: len(image.labels), 4] = torch.from_numpy(image.labels)
        row[: len(image.labels), 5] = torch.from_numpy(image.ignored)
    return packed


def unpack_boxes(packed: Tensor) -> list[dict[str, Tensor]]:
    """Return "boxes" (n,4), "labels" int64 (n,) and "ignored" bool (n,) of each image.

    Args:
        packed: Float (B,M,6) from `pack_boxes`.
    """
    kept = [image[image[:, 4] >= 0] for image in packed]
    return [
        {"boxes": rows[:, :4], "labels": rows[:, 4].long(), "ignored": rows[:, 5] > 0}
        for rows in kept
    ]


def is_packed(targets: Tensor | None) -> TypeGuard[Tensor]:
    """Return whether targets are packed boxes (B,M,6); masks and class indices are integers."""
    return targets is not None and targets.is_floating_point() and targets.shape[-1] == FIELDS


def to_labels(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Return boxes (B,M,4) and labels int64 (B,M), −1 for padding and for ignored boxes."""
    labels = packed[..., 4].masked_fill(packed[..., 5] > 0, -1)
    return packed[..., :4], labels.long()


def crop_boxes(packed: Tensor, height: float, width: float) -> Tensor:
    """Cut boxes at the edges of their image.

    A box of which nothing is left becomes padding; one of which less than `LEAST_VISIBLE` is left is
    ignored.

    Args:
        packed: Float (B,M,6), coordinates possibly outside.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        Float (B,M,6).
    """
    limit = packed.new_tensor([width, height, width, height])
    boxes = packed[..., :4]
    cut = boxes.clamp(min=0).minimum(limit)
    before, after = ((b[..., 2:] - b[..., :2]).prod(-1) for b in (boxes, cut))
    labels = packed[..., 4].masked_fill(after <= 0, -1)
    ignored = packed[..., 5].masked_fill(after < LEAST_VISIBLE * before, 1)
    return torch.cat([cut, labels[..., None], ignored[..., None]], dim=-1)


def move_boxes(packed: Tensor, theta: Tensor, height: int, width: int) -> Tensor:
    """Warp boxes with their image, and cut them at its edges.

    Args:
        packed: Float (B,M,6).
        theta: Float (B,2,3) as for `affine_grid` with align_corners=False: new to old place, without
            shear or rotation; a negative factor mirrors.
        height: Height of old and new image in pixels.
        width: Width of both in pixels.

    Returns:
        Float (B,M,6).
    """
    size = packed.new_tensor([width, height])
    scale = theta[:, [0, 1], [0, 1]][:, None, None]
    # (B,M,corner,xy) on the scale −1 … 1 of `affine_grid`, then through the inverse of theta.
    corners = packed[..., :4].reshape(*packed.shape[:2], 2, 2) * 2 / size - 1
    corners = ((corners - theta[:, None, None, :, 2]) / scale + 1) / 2 * size
    moved = torch.cat([corners.amin(-2), corners.amax(-2), packed[..., 4:]], dim=-1)
    return crop_boxes(moved, height, width)


def resize_and_center_crop_boxes(
    image: ImageBoxes, old: tuple[int, int], new: tuple[int, int]
) -> ImageBoxes:
    """Resize boxes as `pools.resize_and_center_crop` resizes their image.

    Args:
        image: Boxes of the image.
        old: Height and width of the image in pixels.
        new: Height and width wanted.
    """
    scale = max(new[0] / old[0], new[1] / old[1])
    left, top = ((n - o * scale) / 2 for n, o in zip(new[::-1], old[::-1], strict=True))
    shift = np.array([left, top, left, top], np.float32)
    scaled = image._replace(boxes=(image.boxes * np.float32(scale) + shift).astype(np.float32))
    return crop_image_boxes(scaled, *new)


def crop_image_boxes(image: ImageBoxes, height: float, width: float) -> ImageBoxes:
    """Cut the boxes of one image at its edges; see `crop_boxes`."""
    (kept,) = unpack_boxes(crop_boxes(pack_boxes([image]), height, width))
    return ImageBoxes(*(kept[name].numpy() for name in ("boxes", "labels", "ignored")))
