"""What a batch of images or of feature maps is, and batches of images that stay in memory as uint8."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fmce.data.transforms import ImageTransform

_MIX = (
    0x9E3779B97F4A7C15  # golden-ratio step of 64-bit hashes: neighbouring epochs get unlike seeds
)


class ImageBatch(NamedTuple):
    """Images ready for a network: (B,3,H,W) float32, class indices (B,) int64, positions (B,) int64."""

    images: Tensor
    targets: Tensor
    image_index: Tensor


class ViewBatch(NamedTuple):
    """A batch of views: images float32 (B,3,H,W) normalised, targets or None, pool positions (B,)."""

    images: Tensor
    targets: Tensor | None
    image_index: Tensor


class MapBatch(NamedTuple):
    """Feature maps (B,C,H,W), their scores 1…K (B,) int64, image positions and run numbers (B,) int64."""

    maps: Tensor
    scores: Tensor
    image_index: Tensor
    run: Tensor


@dataclass(frozen=True)
class ImageSet:
    """Images of one split: uint8 (N,C,H,W) with C = 1 or 3, targets int64 (N,)."""

    images: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> "ImageSet":
        """Return the set on a device; batches are then made there."""
        return ImageSet(self.images.to(device), self.targets.to(device))

    def select(self, index: Tensor) -> "ImageSet":
        """Return the images at the given positions."""
        return ImageSet(self.images[index], self.targets[index])


class ImageBatches:
    """Batches of an image set, cut and transformed on the device the images are on.

    In training, order and variation come from a generator of their own, seeded by (seed, epoch): two
    trainings with one seed see the same images whatever else draws random numbers.
    """

    def __init__(
        self,
        images: ImageSet,
        transform: ImageTransform,
        batch_size: int,
        *,
        seed: int | None = None,
    ) -> None:
        """Describe the batches.

        Args:
            images: the split.
            transform: resizes and normalises, and varies training images.
            batch_size: images a batch; the last one may be smaller.
            seed: the run's seed, for training; None gives plain images in order.
        """
        self.images, self.transform, self.batch_size, self.seed = (
            images,
            transform,
            batch_size,
            seed,
        )

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def epoch(self, epoch: int = 0) -> Iterator[ImageBatch]:
        """Yield the batches of an epoch."""
        device = self.images.images.device
        if self.seed is None:
            generator = None
            order = torch.arange(len(self.images), device=device)
        else:
            generator = torch.Generator(device).manual_seed((self.seed * _MIX + epoch) % 2**63)
            order = torch.randperm(len(self.images), generator=generator, device=device)
        for index in torch.split(order, self.batch_size):
            part = self.images.select(index)
            yield ImageBatch(self.transform(part.images, generator), part.targets, index)
