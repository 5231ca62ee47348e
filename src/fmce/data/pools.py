"""Pools of images for function matching: uint8 tensors, with targets where there are labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fmce.data.image_reader import ImageArray


@dataclass(frozen=True)
class ImagePool:
    """Images on one device, with their targets.

    Attributes:
        images: Uint8 (N,3,H,W).
        targets: Classes int64 (N,), masks uint8 (N,H,W), packed boxes float32 (N,M,6), or None if unlabelled.
        damaged: Files that could not be read when the pool was made; others stand in for them.
    """

    images: Tensor
    targets: Tensor | None = None
    damaged: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """The device that holds the images."""
        return self.images.device

    @property
    def nbytes(self) -> int:
        """Bytes of images and targets."""
        return self.images.nbytes + (0 if self.targets is None else self.targets.nbytes)

    def to(self, device: torch.device) -> "ImagePool":
        """Return the pool on a device."""
        return ImagePool(
            self.images.to(device), None if self.targets is None else self.targets.to(device)
        )

    def take(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the images at positions (B,) and their targets."""
        index = index.to(self.device)
        return self.images[index], None if self.targets is None else self.targets[index]

    def select(self, index: Sequence[int] | Tensor) -> "ImagePool":
        """Return the pool of the given positions."""
        images, targets = self.take(torch.as_tensor(index, dtype=torch.int64))
        return ImagePool(images, targets)

    def unlabelled(self) -> "ImagePool":
        """Return the same images without targets."""
        return ImagePool(self.images)

    def __add__(self, other: "ImagePool") -> "ImagePool":
        """Return both pools' images; targets are kept only where both have them."""
        if not isinstance(other, ImagePool):  # a pool in files, which knows how to take images in
            return NotImplemented
        both = self.targets is not None and other.targets is not None
        targets = torch.cat([self.targets, other.targets]) if both else None  # type: ignore[list-item]
        return ImagePool(torch.cat([self.images, other.images]), targets)


def resize_and_center_crop(array: ImageArray, height: int, width: int) -> ImageArray:
    """Resize an image uint8 (H,W,3), bilinear, or a mask uint8 (H,W), nearest; crop the centre.

    The result covers height × width.
    """
    image = Image.fromarray(array)
    if image.size == (width, height):
        return array
    # Cropped before resizing: the other order would compute pixels that are then thrown away.
    scale = max(height / image.height, width / image.width)
    # Rounding may put the box a hair outside the image, which resize refuses.
    across, down = min(width / scale, image.width), min(height / scale, image.height)
    left, top = (image.width - across) / 2, (image.height - down) / 2
    box = (left, top, left + across, top + down)
    sampling = Image.Resampling.BILINEAR if array.ndim == 3 else Image.Resampling.NEAREST
    return np.asarray(image.resize((width, height), sampling, box=box))


def as_pool(
    images: Sequence[ImageArray] | ImageArray,
    targets: Sequence[ImageArray] | ImageArray | None = None,
) -> ImagePool:
    """Return a pool of uint8 images (H,W,3), all of one size, and their targets."""
    stacked = stack_images(images, len(images))
    return ImagePool(stacked, None if targets is None else torch.from_numpy(np.asarray(targets)))


def stack_images(images: Iterable[ImageArray], count: int) -> Tensor:
    """Put N images uint8 (H,W,3) of one size into a tensor (N,3,H,W) as they come, decoded on demand.

    Raises:
        ValueError: If there are no images, or not `count`.
    """
    stacked: ImageArray | None = None
    for image, place in zip(images, range(count), strict=True):
        if stacked is None:
            stacked = np.empty((count, 3, *image.shape[:2]), np.uint8)
        stacked[place] = image.transpose(2, 0, 1)
    if stacked is None:
        raise ValueError("expected at least one image, got none")
    return torch.from_numpy(stacked)


def empty_pool(height: int, width: int) -> ImagePool:
    """Return a pool without images."""
    return ImagePool(torch.zeros(0, 3, height, width, dtype=torch.uint8))
