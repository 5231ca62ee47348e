"""Batches of images stored as uint8, on the network's device where they fit, else cut on the host and copied."""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fmce.data.batch_slice import ALL_ROWS, rank_slice, require_row_per_rank
from fmce.data.memory import stays_resident
from fmce.data.transforms import ImageTransform
from fmce.seeding import image_epoch_seed


class ImageBatch(NamedTuple):
    """Images for a classifier.

    Attributes:
        images: float32 (B,3,H,W), normalised.
        targets: Class indices int64 (B,).
        image_index: Positions in the split int64 (B,).
        step: Number of training steps before this one, over all epochs; 0 outside training.
    """

    images: Tensor
    targets: Tensor
    image_index: Tensor
    step: int = 0


class PoolBatch(NamedTuple):
    """Images of a pool: float32 (B,3,H,W), normalised; targets or None; positions in the pool int64 (B,)."""

    images: Tensor
    targets: Tensor | None
    image_index: Tensor


@dataclass(frozen=True)
class ImageSet:
    """Images of one split: uint8 (N,C,H,W) with C = 1 or 3, targets int64 (N,)."""

    images: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> "ImageSet":
        """Return the set on a device."""
        return ImageSet(self.images.to(device), self.targets.to(device))

    def select(self, index: Tensor) -> "ImageSet":
        """Return the images at the given positions."""
        return ImageSet(self.images[index], self.targets[index])

    def stays_on(self, device: torch.device) -> bool:
        """Return whether the images are on the device or may stay there."""
        return self.images.device == device or stays_resident(self.images.nbytes, device)

    def placed(self, device: torch.device) -> "ImageSet":
        """Return the set on the device if it may stay there, else on the host."""
        return self.to(device if self.stays_on(device) else torch.device("cpu"))


class ImageBatches:
    """Batches of an image set, transformed on the network's device.

    In training, (seed, epoch) alone decides order and variation: two trainings with one seed see the same
    images, whatever else draws random numbers.
    """

    def __init__(
        self,
        images: ImageSet,
        transform: ImageTransform,
        batch_size: int,
        *,
        seed: int | None = None,
        device: torch.device | None = None,
        resident: bool | None = None,
        rank_of: tuple[int, int] = ALL_ROWS,
    ) -> None:
        """Describe the batches.

        Args:
            images: The split.
            transform: Resizes and normalises, and varies training images.
            batch_size: Images per batch, of all ranks together; the last one may be smaller.
            seed: The run's seed, for training; None gives unvaried images in order.
            device: Where batches are wanted; by default where the images are.
            resident: Whether the images stay there; None decides by free memory.
            rank_of: Rank of this process and number of ranks; together they see the images in the order and
                variation that one process alone would see.

        Raises:
            ValueError: If a training batch has fewer images than ranks share it.
        """
        if seed is not None:
            require_row_per_rank(len(images), batch_size, rank_of, "images", "train.batch_size")
        self.rank_of = rank_of
        self.device = images.images.device if device is None else device
        self.resident = images.stays_on(self.device) if resident is None else resident
        self.images = images.to(self.device if self.resident else torch.device("cpu"))
        self.transform, self.batch_size, self.seed = transform, batch_size, seed

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def epoch(self, epoch: int = 0) -> Iterator[ImageBatch]:
        """Yield the batches of an epoch."""
        generator, order = None, torch.arange(len(self.images), device=self.device)
        if self.seed is not None:
            generator = torch.Generator(self.device).manual_seed(image_epoch_seed(self.seed, epoch))
            order = torch.randperm(len(self.images), generator=generator, device=self.device)
        batches = torch.split(order, self.batch_size)
        slices = [rank_slice(len(batch), *self.rank_of) for batch in batches]
        positions = [batch[own.rows] for batch, own in zip(batches, slices, strict=True)]
        parts = map(self.images.select, positions) if self.resident else self._copied(positions)
        # From the epoch alone, so that a resumed run continues the count.
        step = max(epoch - 1, 0) * len(self)
        for index, part, own in zip(positions, parts, slices, strict=True):
            yield ImageBatch(self.transform(part.images, generator, own), part.targets, index, step)
            step += 1

    def _copied(self, positions: Sequence[Tensor]) -> Iterator[ImageSet]:
        """Cut batches on the host, one in advance, and copy them to the device."""
        with ThreadPoolExecutor(max_workers=1) as worker:
            # Copied to the host once: a copy per batch would wait for the device each time.
            host = torch.split(torch.cat([*positions]).cpu(), [len(p) for p in positions])
            jobs = (worker.submit(self._cut, index) for index in host)
            for job, _ahead in itertools.pairwise(itertools.chain(jobs, [None])):
                assert job is not None
                part = job.result()
                images, targets = (
                    t.to(self.device, non_blocking=True) for t in (part.images, part.targets)
                )
                yield ImageSet(images, targets)

    def _cut(self, index: Tensor) -> ImageSet:
        # Directly into pinned memory, from where the copy to a GPU overlaps with its work.
        pinned = self.device.type == "cuda"
        shape = (len(index), *self.images.images.shape[1:])
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        torch.index_select(self.images.images, 0, index, out=images)
        return ImageSet(images, self.images.targets[index])
