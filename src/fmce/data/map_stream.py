"""The FMCS-Dataset recomputed on the fly: K backbones resident, nothing on disk.

Section IV-D of the FMCE paper: the checkpoint of each epoch marker maps every image; the label of
a map is the phase of its checkpoint.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmce.data.batch import MapBatch

Extractor = Callable[[Tensor], Tensor]
"""Images (B,3,H,W), normalised → feature maps (B,C,h,w); runs in eval mode without gradients."""


class MapSource(Protocol):
    """A set of numbered feature maps, however it is backed (recomputed, in memory, on disk)."""

    num_images: int
    num_phases: int
    num_runs: int

    def batches(
        self, numbers: NDArray[np.int64], batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[MapBatch]:
        """Yield each of the numbered maps once, shuffled when a generator is given."""
        ...


class MapStream:
    """Feature maps of every run, phase and image, computed when they are asked for.

    Shuffling is by blocks: a block of shuffled images goes through all backbones at once and its
    maps are mixed with what the block before left over, so memory stays bounded by one block's maps.
    """

    def __init__(
        self,
        extractors: Sequence[Sequence[Extractor]],
        images: Callable[[Tensor], Tensor],
        num_images: int,
        *,
        block: int = 256,
        run_numbers: Sequence[int] | None = None,
    ) -> None:
        """Describe the stream.

        Args:
            extractors: for each run its K extractors, in the order of the phases.
            images: positions (B,) int64 → normalised images (B,3,H,W) on the extractors' device.
            num_images: N.
            block: images that go through a backbone at a time, and that are mixed with each other.
            run_numbers: number each run is known by; 0, 1, … by default.

        Raises:
            ValueError: no extractors, or runs with unlike numbers of phases.
        """
        phases = {len(run) for run in extractors}
        if len(phases) != 1 or 0 in phases:
            raise ValueError(
                f"expected one or more runs with equally many phases, got {[len(r) for r in extractors]}"
            )
        self.extractors, self.images, self.block = extractors, images, block
        self.num_runs, self.num_phases, self.num_images = len(extractors), phases.pop(), num_images
        self.run_numbers = list(range(self.num_runs)) if run_numbers is None else list(run_numbers)

    def batches(
        self, numbers: NDArray[np.int64], batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[MapBatch]:
        """Yield each of the numbered maps once.

        Args:
            numbers: which maps, as in `fmce.data.map_splits`.
            batch_size: maps a batch; only the last may be smaller.
            generator: CPU generator that shuffles; None keeps blocks of images in order.
        """
        wanted = np.zeros((self.num_runs * self.num_phases, self.num_images), dtype=bool)
        wanted.reshape(-1)[numbers] = True
        images = np.flatnonzero(wanted.any(axis=0))
        if generator is not None:
            images = images[torch.randperm(len(images), generator=generator).numpy()]
        rest: MapBatch | None = None
        for start in range(0, len(images), self.block):
            pool = self._map_block(images[start : start + self.block], wanted, rest)
            if generator is not None:
                pool = _take(pool, torch.randperm(len(pool.scores), generator=generator))
            whole = len(pool.scores) // batch_size * batch_size
            for first in range(0, whole, batch_size):
                yield MapBatch(*(t[first : first + batch_size] for t in pool))
            rest = MapBatch(*(t[whole:] for t in pool))
        if rest is not None and len(rest.scores):
            yield rest

    def _map_block(
        self, block: NDArray[np.int64], wanted: NDArray[np.bool_], rest: MapBatch | None
    ) -> MapBatch:
        index = torch.from_numpy(block)
        images = self.images(index)
        parts = [] if rest is None else [rest]
        for row in range(len(wanted)):
            keep = torch.from_numpy(np.flatnonzero(wanted[row, block]))
            if not len(keep):
                continue
            run, phase = divmod(row, self.num_phases)
            chosen = images if len(keep) == len(block) else images[keep.to(images.device)]
            maps = self.extractors[run][phase](chosen)
            count = torch.full_like(keep, 1)
            parts.append(
                MapBatch(maps, count * (phase + 1), index[keep], count * self.run_numbers[run])
            )
        return (
            parts[0]
            if len(parts) == 1
            else MapBatch(*(torch.cat(ts) for ts in zip(*parts, strict=True)))
        )


class MapBatches:
    """Shuffled batches of a map source for a training loop, the same for the same (seed, epoch)."""

    def __init__(
        self, source: MapSource, numbers: NDArray[np.int64], batch_size: int, *, seed: int
    ) -> None:
        """Describe the batches; see `MapSource.batches`."""
        self.source, self.numbers, self.batch_size, self.seed = source, numbers, batch_size, seed

    def __len__(self) -> int:
        return -(-len(self.numbers) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[MapBatch]:
        """Yield the batches of a 1-based epoch."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return self.source.batches(self.numbers, self.batch_size, generator)


def _take(batch: MapBatch, index: Tensor) -> MapBatch:
    return MapBatch(*(t[index.to(t.device)] for t in batch))
