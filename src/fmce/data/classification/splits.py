"""What a reader of classification data returns: the splits of its files, before any is drawn."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmce.data.batch import ImageSet


@dataclass(frozen=True)
class DataParts:
    """Training images, and validation and test images where the files have such splits."""

    train: ImageSet
    class_names: tuple[str, ...]
    source: str
    """Where the images came from, in words."""
    validation: ImageSet | None = None
    test: ImageSet | None = None


def to_image_set(images: Any, targets: Any, where: str, num_classes: int | None = None) -> ImageSet:
    """Check images and class indices and convert them to an `ImageSet`.

    Args:
        images: A uint8 array (N,H,W) or (N,H,W,C), or a uint8 tensor (N,C,H,W), C = 1 or 3.
        targets: Integers (N,), or (N,1) as in Keras, 0 to `num_classes` − 1.
        where: Where they come from, for messages.
        num_classes: None accepts any class index of 0 or more.

    Raises:
        ValueError: If type, shape, number or range differs.
    """
    stored = images if isinstance(images, Tensor) else _channels_first(np.asarray(images), where)
    if stored.dtype != torch.uint8 or stored.ndim != 4 or stored.shape[1] not in (1, 3):
        raise ValueError(
            f"{where}: expected uint8 images, arrays N×H×W or N×H×W×C or tensors N×C×H×W with 1 or 3 "
            f"channels, got {stored.dtype} {tuple(np.shape(images))}"
        )
    classes = np.asarray(targets)
    if classes.shape == (len(stored), 1):
        classes = classes[:, 0]
    if classes.shape != (len(stored),) or not len(stored):
        raise ValueError(
            f"{where}: expected one class index per image, got {classes.shape} for {len(stored)} images"
        )
    if not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(f"{where}: expected integer class indices, got {classes.dtype}")
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        raise ValueError(
            f"{where}: expected class indices 0 to {(num_classes or high + 1) - 1}, got {low} to {high}"
        )
    return ImageSet(stored.contiguous(), torch.from_numpy(classes.astype(np.int64)))


def _channels_first(images: NDArray[Any], where: str) -> Tensor:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"{where}: expected uint8 images N×H×W or N×H×W×C, got {images.dtype} {images.shape}"
        )
    if images.ndim == 3:
        images = images[..., None]
    # Copied: arrays of files are read-only, and cutting batches from a strided view would be slow.
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy(order="C"))
