"""Augmented views, drawn once per step: teacher, student and labels get the very same view."""

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Generic, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fmce.data.batch import PoolBatch
from fmce.data.batch_slice import ALL_ROWS, BatchSlice, own_rows, rank_slice, require_row_per_rank
from fmce.data.detection.boxes import is_packed, move_boxes
from fmce.data.pools import ImagePool
from fmce.data.transforms import normalize
from fmce.seeding import augmentation_seed, pool_order_seed


class _Images(Protocol):
    def __len__(self) -> int: ...

    @property
    def device(self) -> torch.device: ...


_Pool = TypeVar("_Pool", bound=_Images)


@dataclass(frozen=True)
class Augmentation:
    """How views are drawn. With zoom 1, no flip and brightness 0, a view is the image itself.

    Attributes:
        mean: Three channel means on the 0–1 scale, which views are normalised with.
        std: Three standard deviations, likewise.
        zoom: Largest enlargement, at least 1.
        flip: Mirror left-right with probability ½.
        brightness: Largest relative change of brightness and of contrast, in [0, 1).

    >>> plain = Augmentation((0.5,) * 3, (0.25,) * 3)
    >>> plain(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8))[0].flatten().tolist()
    [2.0, 2.0, 2.0]
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    zoom: float = 1.0
    flip: bool = False
    brightness: float = 0.0

    def __call__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        batch_slice: BatchSlice | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return views of a batch and the same views of its masks or boxes.

        Args:
            images: Uint8 (B,3,H,W).
            labels: Masks uint8 or int64 (B,H,W), packed boxes float (B,M,6), class indices (B,), or None.
            generator: On the images' device; None gives the plain images.
            batch_slice: As for `ImageTransform`.

        Returns:
            Float32 (B,3,H,W), normalised; int64 (B,H,W), float32 (B,M,6), int64 (B,) or None.
        """
        x = images.float() / 255
        y = labels if labels is None or is_packed(labels) else labels.long()
        if generator is not None:
            batch_slice = batch_slice or rank_slice(len(x), *ALL_ROWS)
            if self.zoom > 1 or self.flip:
                x, y = self._warp(x, y, generator, batch_slice)
            if self.brightness:
                x = self._relight(x, generator, batch_slice)
        return normalize(x, self.mean, self.std), y

    def _warp(
        self, x: Tensor, y: Tensor | None, generator: torch.Generator, batch_slice: BatchSlice
    ) -> tuple[Tensor, Tensor | None]:
        draw = torch.rand(4, batch_slice.batch_size, generator=generator, device=x.device)
        draw = draw[:, batch_slice.rows]  # (4,B): zoom, mirror, window's place across and down
        side = self.zoom ** -draw[0]  # of the window over the image's: zoom is log-uniform
        mirror = torch.where(draw[1] < 0.5, -1.0, 1.0) if self.flip else torch.ones_like(side)
        theta = torch.zeros(len(x), 2, 3, device=x.device)
        theta[:, 0, 0], theta[:, 1, 1] = side * mirror, side
        theta[:, :, 2] = (2 * draw[2:].T - 1) * (1 - side)[:, None]
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)  # (B,H,W,2)
        # Windows lie inside the image; border padding only meets rounding at its edge.
        x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
        if is_packed(y):
            return x, move_boxes(y, theta, *x.shape[2:])
        if y is not None and y.ndim == 3:
            warped = F.grid_sample(
                y[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False
            )
            y = warped[:, 0].long()
        return x, y

    def _relight(self, x: Tensor, generator: torch.Generator, batch_slice: BatchSlice) -> Tensor:
        drawn = torch.rand(2, batch_slice.batch_size, 1, 1, 1, generator=generator, device=x.device)
        # (2,B,1,1,1): contrast and brightness
        draw = 1 + self.brightness * (2 * drawn[:, batch_slice.rows] - 1)
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        return ((x - mean) * draw[0] + mean * draw[1]).clamp(0, 1)


def augmentation_generator(device: torch.device, seed: int, step: int) -> torch.Generator:
    """Return the generator of a batch's views, which depend on seed and step alone."""
    return torch.Generator(device).manual_seed(augmentation_seed(seed, step))


@dataclass(eq=False)
class StepBatches(Generic[_Pool]):
    """Batches of augmented views from a pool: an endless sequence, cut into intervals of training steps.

    Batch s takes the places s·B … (s+1)·B of a sequence in which every image occurs once before any
    occurs again, so that a training resumes in the middle of a pass. Nothing is read yet.

    Attributes:
        pool: Where images come from.
        augmentation: How they are varied.
        batch_size: B, of all processes together.
        interval: Steps per "epoch" of the training loop.
        seed: Draws the order of images and their views.
        device: Where views are made, wherever the pool is; by default where it is.
        rank_of: Rank of this process and how many share each batch; together they see the images, in
            the order and views, that one process alone would see.

    Raises:
        ValueError: If the pool is empty, or a batch has fewer images than processes share it.
    """

    pool: _Pool
    augmentation: Augmentation
    batch_size: int
    interval: int
    _: KW_ONLY
    seed: int
    device: torch.device | None = None
    rank_of: tuple[int, int] = ALL_ROWS

    def __post_init__(self) -> None:
        if len(self.pool) == 0:
            raise ValueError("expected a pool with images, got an empty one")
        batch_size, rank_of = self.batch_size, self.rank_of
        require_row_per_rank(batch_size, batch_size, rank_of, "images", "batch_size")
        self.batch_slice = rank_slice(batch_size, *rank_of)
        self.home = self.device or self.pool.device

    def __len__(self) -> int:
        return self.interval


class TrainBatches(StepBatches[ImagePool]):
    """Batches from a pool in memory, one random order of the complete pool after another."""

    _orders: Mapping[int, Tensor] = {}

    def epoch(self, epoch: int) -> Iterator[PoolBatch]:
        """Yield the batches of the 1-based interval `epoch`."""
        first = (epoch - 1) * self.interval
        for step in range(first, first + self.interval):
            index = self._positions(step)[self.batch_slice.rows]
            images, targets = self.pool.take(index)
            # Copied before they are varied: views are floats, of four times as many bytes.
            images = images.to(self.home)
            targets = None if targets is None else targets.to(self.home)
            generator = augmentation_generator(self.home, self.seed, step)
            yield PoolBatch(*self.augmentation(images, targets, generator, self.batch_slice), index)

    def _positions(self, step: int) -> Tensor:
        size, start = len(self.pool), step * self.batch_size
        wanted = range(start, start + self.batch_size)
        turns = {position // size for position in wanted}
        # A batch may end one pass and begin the next, so two orders may be in use.
        kept = {turn: order for turn, order in self._orders.items() if turn in turns}
        for turn in turns - kept.keys():
            generator = torch.Generator().manual_seed(pool_order_seed(self.seed, turn))
            kept[turn] = torch.randperm(size, generator=generator)
        self._orders = kept
        return torch.stack([kept[p // size][p % size] for p in wanted])


@dataclass(eq=False)
class EvalBatches:
    """A pool's images as they are, in order; of several processes, each gives its share of each batch."""

    pool: ImagePool
    augmentation: Augmentation
    batch_size: int = 32
    _: KW_ONLY
    rank_of: tuple[int, int] = ALL_ROWS

    def __len__(self) -> int:
        return -(-len(self.pool) // self.batch_size)

    def epoch(self, _epoch: int = 0) -> Iterator[PoolBatch]:
        """Yield all images once; of several processes, some may have one batch fewer."""
        batches = torch.arange(len(self.pool)).split(self.batch_size)  # type: ignore[no-untyped-call]
        for index in own_rows(batches, self.rank_of):
            if not len(index):
                continue  # the last batch may have fewer images than there are processes
            yield PoolBatch(*self.augmentation(*self.pool.take(index)), index)
