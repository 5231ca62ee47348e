"""Pools of images for function matching: kept as uint8 arrays, with targets where there are labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from fmce.data.frame_pool import FramePool

ImageArray = NDArray[np.uint8]
POOLS = ("labelled", "unlabelled", "held_out", "validation")


@dataclass(frozen=True)
class ImagePool:
    """Images uint8 (N,3,H,W) on one device; targets (N,), (N,H,W), (N,M,6), or None if unlabelled.

    damaged: files that could not be read when the pool was made, in whose place others stand.
    """

    images: Tensor
    targets: Tensor | None = None
    damaged: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

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


@dataclass(frozen=True)
class MatchingData:
    """What a function-matching experiment sees.

    labelled: for every arm and the teacher. unlabelled: for the funmatch arm besides, may be empty, and
    may lie in files.
    held_out: unlabelled images nobody trains on. validation: where all are evaluated.
    """

    labelled: ImagePool
    unlabelled: "ImagePool | FramePool"
    held_out: ImagePool
    validation: ImagePool
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to(self, device: torch.device) -> Self:
        """Return all pools on a device."""
        pools = {name: getattr(self, name).to(device) for name in POOLS}
        return replace(self, **pools)


def cover(image: ImageArray, height: int, width: int) -> ImageArray:
    """Resize an image to cover height × width and cut the centre.

    Args:
        image: uint8 (H,W,3).
        height: pixels.
        width: pixels.

    Returns:
        uint8 (height,width,3).
    """
    return np.asarray(_cover(Image.fromarray(image), height, width, Image.Resampling.BILINEAR))


def cover_mask(mask: ImageArray, height: int, width: int) -> ImageArray:
    """Resize a mask of class ids like `cover`, by nearest neighbour.

    Args:
        mask: uint8 (H,W).
        height: pixels.
        width: pixels.
    """
    return np.asarray(_cover(Image.fromarray(mask), height, width, Image.Resampling.NEAREST))


def _cover(
    image: Image.Image, height: int, width: int, resampling: Image.Resampling
) -> Image.Image:
    if image.size == (width, height):
        return image
    # The box is cut before resizing: resizing first would make pixels that are then thrown away.
    scale = max(height / image.height, width / image.width)
    # Rounding may put the box a hair outside the image, which resize refuses.
    across, down = min(width / scale, image.width), min(height / scale, image.height)
    left, top = (image.width - across) / 2, (image.height - down) / 2
    return image.resize((width, height), resampling, box=(left, top, left + across, top + down))


def as_pool(
    images: Sequence[ImageArray] | ImageArray,
    targets: Sequence[ImageArray] | ImageArray | None = None,
) -> ImagePool:
    """Stack uint8 images (H,W,3), all of one size, and their targets."""
    stacked = torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2).contiguous()
    return ImagePool(stacked, None if targets is None else torch.from_numpy(np.asarray(targets)))


def empty_pool(height: int, width: int) -> ImagePool:
    """Return a pool without images."""
    return ImagePool(torch.zeros(0, 3, height, width, dtype=torch.uint8))
