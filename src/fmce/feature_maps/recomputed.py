"""The FMCS-Dataset recomputed on the fly: K backbones stay on the device, nothing on disk.

FMCE paper, Section IV-D: the checkpoint of each epoch marker maps every image; the label of a map is the
phase of its checkpoint.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmce.data.batch_slice import ALL_ROWS, require_row_per_rank
from fmce.feature_maps.batch import MapBatch
from fmce.feature_maps.shuffle_buffer import plan_shuffle, shuffled_maps
from fmce.seeding import map_epoch_seed

Extractor = Callable[[Tensor], Tensor]
"""Normalised images (B,3,H,W) → feature maps (B,C,h,w), in eval mode without gradients."""

# Not given in the paper. In float32 a buffer takes 1.6 GB at 1024×7×7, and twice that at 2048×7×7.
BUFFER = 8192


class MapSource(Protocol):
    """A set of feature maps by number (see `splits`), however they are stored.

    The same numbers, batch size and generator give the same batches on every rank and in every process.
    """

    num_images: int
    num_phases: int
    num_runs: int

    def batches(
        self,
        numbers: NDArray[np.int64],
        batch_size: int,
        generator: torch.Generator | None = None,
        rank_of: tuple[int, int] = ALL_ROWS,
    ) -> Iterator[MapBatch]:
        """Yield each numbered map once.

        Args:
            numbers: Which maps.
            batch_size: Maps per batch, of all ranks together; only the last may be smaller.
            generator: CPU generator that shuffles; None keeps the source's own order.
            rank_of: Rank and number of ranks; a rank gets its rows of each batch.
        """
        ...


class RecomputedMaps:
    """Feature maps of every run, phase and image, computed on demand.

    A block of images passes all backbones; its maps are shuffled in a buffer with those of earlier blocks.
    The device holds the backbones, the buffer, the input of one block and one batch, however many images
    there are. Each rank computes only the maps of its own rows.
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
            extractors: The K extractors of each run, in the order of the phases.
            images: Positions int64 (B,) → normalised images (B,3,H,W) on the extractors' device.
            num_images: N.
            block: Images per forward pass; fewer where the buffer is small.
            buffer: Maps that are shuffled with one another; memory is reserved for them.
            run_numbers: Number of each run in the batches; 0, 1, … by default.

        Raises:
            ValueError: If there are no extractors, or the runs differ in their number of phases.
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
        rank_of: tuple[int, int] = ALL_ROWS,
    ) -> Iterator[MapBatch]:
        """Yield each numbered map once; see `MapSource.batches`.

        Raises:
            ValueError: If the buffer is too small to shuffle the maps of one image and a batch.
        """
        rounds = plan_shuffle(
            self._rounds(numbers, batch_size, generator), batch_size, self.buffer, generator
        )
        for taken, maps in shuffled_maps(rounds, lambda own: map(self._fetch, own), rank_of):
            yield with_labels(taken, maps, self, self.run_numbers)

    def _rounds(
        self, numbers: NDArray[np.int64], batch_size: int, generator: torch.Generator | None
    ) -> list[NDArray[np.int64]]:
        """Return the numbers of the maps of each block of images."""
        rows = self.num_runs * self.num_phases
        wanted = np.zeros((rows, self.num_images), dtype=bool)
        wanted.reshape(-1)[numbers] = True
        images = np.flatnonzero(wanted.any(axis=0))
        if generator is not None:
            images = images[torch.randperm(len(images), generator=generator).numpy()]
        # A round fills at most half of the buffer: the other half is what it is shuffled with.
        room = self.buffer // 2
        if generator is not None:
            room = min(room, self.buffer - batch_size)
        block = max(1, min(self.block, room // rows))
        blocks = (images[s : s + block] for s in range(0, len(images), block))
        first_of_row = np.arange(rows)[:, None] * self.num_images
        return [(first_of_row + b)[wanted[:, b]] for b in blocks]

    def _fetch(self, numbers: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        if not len(numbers):
            return  # a rank may have no rows in a round
        rows, images = np.divmod(numbers, self.num_images)
        block = np.unique(images)
        inputs = self.images(torch.from_numpy(block))
        for row in np.unique(rows):
            run, phase = divmod(int(row), self.num_phases)
            chosen, mine = inputs, rows == row
            if mine.sum() < len(block):
                place = torch.from_numpy(np.searchsorted(block, images[mine]))
                # Blocking, the host would wait for each backbone before it starts the next.
                chosen = inputs[place.to(inputs.device, non_blocking=True)]
            yield numbers[mine], self.extractors[run][phase](chosen)


class MapBatches:
    """Shuffled batches of a map source for a training loop; (seed, epoch) decides them."""

    def __init__(
        self,
        source: MapSource,
        numbers: NDArray[np.int64],
        batch_size: int,
        *,
        seed: int,
        rank_of: tuple[int, int] = ALL_ROWS,
    ) -> None:
        """Describe the batches; see `MapSource.batches`.

        Raises:
            ValueError: If a batch has fewer maps than ranks share it.
        """
        require_row_per_rank(len(numbers), batch_size, rank_of, "maps", "fmce_net.batch_size")
        self.source, self.numbers, self.batch_size, self.seed = source, numbers, batch_size, seed
        self.rank_of = rank_of

    def __len__(self) -> int:
        return -(-len(self.numbers) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[MapBatch]:
        """Yield this rank's rows of the batches of a 1-based epoch."""
        generator = torch.Generator().manual_seed(map_epoch_seed(self.seed, epoch))
        return self.source.batches(self.numbers, self.batch_size, generator, self.rank_of)


def with_labels(
    numbers: NDArray[np.int64], maps: Tensor, source: MapSource, run_numbers: Sequence[int]
) -> MapBatch:
    """Return maps (B,C,h,w) with the phase, image and run that their numbers (B,) stand for."""
    rows, images = np.divmod(numbers, source.num_images)
    runs, phases = np.divmod(rows, source.num_phases)
    known_as = np.asarray(run_numbers, dtype=np.int64)[runs]
    return MapBatch(maps, *(torch.from_numpy(a) for a in (phases + 1, images, known_as)))
