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

from fmce.data.batch_slice import WHOLE, require_row_per_rank
from fmce.feature_maps.batch import MapBatch
from fmce.feature_maps.shuffle_buffer import plan_shuffle, shuffled_maps

Extractor = Callable[[Tensor], Tensor]
"""Images (B,3,H,W), normalised → feature maps (B,C,h,w); runs in eval mode without gradients."""

# Not given in the paper. At 1024×7×7 in float32 a buffer takes 1.6 GB, at 2048×7×7 twice that.
BUFFER = 8192


class MapSource(Protocol):
    """A set of numbered feature maps, however it is stored (recomputed, in memory, on disk)."""

    num_images: int
    num_phases: int
    num_runs: int

    def batches(
        self,
        numbers: NDArray[np.int64],
        batch_size: int,
        generator: torch.Generator | None = None,
        share: tuple[int, int] = WHOLE,
    ) -> Iterator[MapBatch]:
        """Yield each of the numbered maps once, shuffled when a generator is given.

        With a `share`, a rank's part of each global batch; the global batches are the same on all.
        """
        ...


class RecomputedMaps:
    """Feature maps of every run, phase and image, computed when they are asked for.

    A block of images goes through all backbones at once; its maps are mixed in a buffer with those of
    blocks before. On the device lie the backbones, the buffer, one block's input and one batch, however
    many images there are. A rank of several computes only the maps of its own part of each batch.
    """

    def __init__(
        self,
        extractors: Sequence[Sequence[Extractor]],
        images: Callable[[Tensor], Tensor],
        num_images: int,
        *,
        block: int = 256,
        buffer: int = BUFFER,
        run_numbers: Sequence[int] | None = None,
    ) -> None:
        """Describe the stream.

        Args:
            extractors: for each run its K extractors, in the order of the phases.
            images: positions (B,) int64 → normalised images (B,3,H,W) on the extractors' device.
            num_images: N.
            block: images that go through a backbone at a time; fewer where the buffer is small.
            buffer: maps that are mixed with each other, and that memory is held for.
            run_numbers: number each run is known by; 0, 1, … by default.

        Raises:
            ValueError: no extractors, or runs with unlike numbers of phases.
        """
        phases = {len(run) for run in extractors}
        if len(phases) != 1 or 0 in phases:
            raise ValueError(
                f"expected one or more runs with equally many phases, got {[len(r) for r in extractors]}"
            )
        self.extractors, self.images, self.block, self.buffer = extractors, images, block, buffer
        self.num_runs, self.num_phases, self.num_images = len(extractors), phases.pop(), num_images
        self.run_numbers = list(range(self.num_runs)) if run_numbers is None else list(run_numbers)

    def batches(
        self,
        numbers: NDArray[np.int64],
        batch_size: int,
        generator: torch.Generator | None = None,
        share: tuple[int, int] = WHOLE,
    ) -> Iterator[MapBatch]:
        """Yield each of the numbered maps once.

        Args:
            numbers: which maps, as in `fmce.feature_maps.splits`.
            batch_size: maps a global batch; only the last may be smaller.
            generator: CPU generator that shuffles; None keeps blocks of images in order.
            share: rank and number of ranks; a rank takes its part of each batch.

        Raises:
            ValueError: the buffer is too small to shuffle one image's maps and a batch.
        """
        rounds = plan_shuffle(
            self._rounds(numbers, batch_size, generator), batch_size, self.buffer, generator
        )
        for taken, maps in shuffled_maps(rounds, lambda own: map(self._fetch, own), share):
            yield with_labels(taken, maps, self, self.run_numbers)

    def _rounds(
        self, numbers: NDArray[np.int64], batch_size: int, generator: torch.Generator | None
    ) -> list[NDArray[np.int64]]:
        """Return the maps of each block of images."""
        rows = self.num_runs * self.num_phases
        wanted = np.zeros((rows, self.num_images), dtype=bool)
        wanted.reshape(-1)[numbers] = True
        images = np.flatnonzero(wanted.any(axis=0))
        if generator is not None:
            images = images[torch.randperm(len(images), generator=generator).numpy()]
        # At most half of the buffer a round: the other half is what the round is mixed with.
        room = self.buffer // 2
        if generator is not None:
            room = min(room, self.buffer - batch_size)
        block = max(1, min(self.block, room // rows))
        blocks = (images[s : s + block] for s in range(0, len(images), block))
        first_of_row = np.arange(rows)[:, None] * self.num_images
        return [(first_of_row + b)[wanted[:, b]] for b in blocks]

    def _fetch(self, numbers: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        if not len(numbers):
            return  # a rank may have no part in a round
        rows, images = np.divmod(numbers, self.num_images)
        block = np.unique(images)
        inputs = self.images(torch.from_numpy(block))
        for row in np.unique(rows):
            run, phase = divmod(int(row), self.num_phases)
            chosen, mine = inputs, rows == row
            if mine.sum() < len(block):
                place = torch.from_numpy(np.searchsorted(block, images[mine]))
                # Else the host would wait for each backbone before it begins the next.
                chosen = inputs[place.to(inputs.device, non_blocking=True)]
            yield numbers[mine], self.extractors[run][phase](chosen)


class MapBatches:
    """Shuffled batches of a map source for a training loop, the same for the same (seed, epoch)."""

    def __init__(
        self,
        source: MapSource,
        numbers: NDArray[np.int64],
        batch_size: int,
        *,
        seed: int,
        share: tuple[int, int] = WHOLE,
    ) -> None:
        """Describe the batches; see `MapSource.batches`.

        Raises:
            ValueError: a batch has fewer maps than ranks share it.
        """
        require_row_per_rank(len(numbers), batch_size, share, "maps", "fmce_net.batch_size")
        self.source, self.numbers, self.batch_size, self.seed = source, numbers, batch_size, seed
        self.share = share

    def __len__(self) -> int:
        return -(-len(self.numbers) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[MapBatch]:
        """Yield the batches of a 1-based epoch; with a share, this rank's part of each."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return self.source.batches(self.numbers, self.batch_size, generator, self.share)


def with_labels(
    numbers: NDArray[np.int64], maps: Tensor, source: MapSource, run_numbers: Sequence[int]
) -> MapBatch:
    """Return maps with the score, image and run that their numbers say."""
    rows, images = np.divmod(numbers, source.num_images)
    runs, phases = np.divmod(rows, source.num_phases)
    known_as = np.asarray(run_numbers, dtype=np.int64)[runs]
    return MapBatch(maps, *(torch.from_numpy(a) for a in (phases + 1, images, known_as)))
