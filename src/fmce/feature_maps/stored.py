"""The FMCS-Dataset read from disk in shuffled ranges of chunks, and shuffled further in a buffer."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmce.data.batch_slice import ALL_ROWS
from fmce.feature_maps.batch import MapBatch
from fmce.feature_maps.recomputed import BUFFER, with_labels
from fmce.feature_maps.shuffle_buffer import Pieces, plan_shuffle, shuffled_maps
from fmce.feature_maps.zarr_shards import CHUNK, SHARD, StoredPart, chunk_ranges

# A read costs about a millisecond whatever its size, so several chunks of small maps are read at once.
READ_BYTES = 2**20
THREADS = 4


class StoredMaps:
    """Feature maps of every run, phase and image, read from what `fmce extract` stored.

    Each epoch shuffles the ranges of every phase, takes equally many of each phase per round and shuffles
    their maps in a float16 buffer on the device, while the next round is read. The host holds two rounds,
    together at most half the size of the buffer. Every rank reads all shards.
    """

    def __init__(
        self, parts: Sequence[StoredPart], device: torch.device, *, buffer: int = BUFFER
    ) -> None:
        """Describe the source.

        Args:
            parts: The same part of the store of each run.
            device: Where batches are wanted.
            buffer: Maps that are shuffled with one another; memory is reserved for them.

        Raises:
            ValueError: If the stores differ in images, phases or the shape of maps.
        """
        kinds = {(p.num_phases, p.num_images, p.map_shape) for p in parts}
        if len(kinds) != 1:
            raise ValueError(
                f"expected stores with equal (phases, images, map shape), got {sorted(kinds)}"
            )
        ((self.num_phases, self.num_images, self.map_shape),) = kinds
        self.parts, self.device, self.buffer = parts, device, buffer
        self.num_runs = len(parts)

    def batches(
        self,
        numbers: NDArray[np.int64],
        batch_size: int,
        generator: torch.Generator | None = None,
        rank_of: tuple[int, int] = ALL_ROWS,
    ) -> Iterator[MapBatch]:
        """Yield each numbered map once; see `MapSource.batches`.

        Raises:
            ValueError: If a shard is missing or damaged, or the buffer is too small.
        """
        rounds = plan_shuffle(self._rounds(numbers, generator), batch_size, self.buffer, generator)
        for taken, maps in shuffled_maps(rounds, self._fetch, rank_of):
            yield with_labels(taken, maps, self, range(self.num_runs))

    def _rounds(
        self, numbers: NDArray[np.int64], generator: torch.Generator | None
    ) -> list[NDArray[np.int64]]:
        """Return the numbers of the maps of each round: as many ranges as a quarter of the buffer holds."""
        rows = self.num_runs * self.num_phases
        wanted = np.zeros((rows, self.num_images), dtype=bool)
        wanted.reshape(-1)[numbers] = True
        ranges = list(chunk_ranges(self.num_images, self.read_length))
        places = [(row, one) for row in range(rows) for one in ranges]
        if generator is not None:  # each phase in its own order, so that a round has many images
            orders = [
                torch.randperm(len(ranges), generator=generator).tolist() for _ in range(rows)
            ]
            places = [
                (row, ranges[i]) for turn in zip(*orders, strict=True) for row, i in enumerate(turn)
            ]
        units = [
            row * self.num_images + first + np.flatnonzero(wanted[row, first:stop])
            for row, (first, stop) in places
        ]
        step = max(1, self.buffer // 4 // self.read_length)
        return [np.concatenate(units[s : s + step]) for s in range(0, len(units), step)]

    @property
    def read_length(self) -> int:
        """Maps per read: about a mebibyte, where the buffer holds four such ranges of every phase."""
        rows = self.num_runs * self.num_phases
        length = CHUNK
        while (
            length < SHARD
            and length * int(np.prod(self.map_shape)) * 2 < READ_BYTES
            and 4 * length * rows <= self.buffer
        ):
            length *= 2
        return length

    def _fetch(self, rounds: Sequence[NDArray[np.int64]]) -> Iterator[Pieces]:
        """Yield the pieces of each round while the next round is read."""
        with ThreadPoolExecutor(THREADS) as pool:
            following = self._start(pool, rounds[0])
            for index in range(len(rounds)):
                reading = following
                if index + 1 < len(rounds):
                    following = self._start(pool, rounds[index + 1])
                yield self._pieces(reading)

    def _start(
        self, pool: ThreadPoolExecutor, numbers: NDArray[np.int64]
    ) -> list[tuple[NDArray[np.int64], Future[Tensor]]]:
        units = numbers // self.num_images * -(-self.num_images // self.read_length)
        units += numbers % self.num_images // self.read_length
        parts = np.split(numbers, np.flatnonzero(np.diff(units)) + 1) if len(numbers) else []
        return [(part, pool.submit(self._read, part)) for part in parts]

    def _read(self, numbers: NDArray[np.int64]) -> Tensor:
        row, images = int(numbers[0] // self.num_images), numbers % self.num_images
        run, phase = divmod(row, self.num_phases)
        # Chunks are decoded completely anyway, so the maps between the wanted ones cost nothing more.
        first, stop = int(images[0]), int(images[-1]) + 1
        maps: Tensor = self.parts[run].read(phase, first, stop)
        if len(maps) == len(images):
            return maps
        return maps.index_select(0, torch.from_numpy(images - first))

    def _pieces(
        self, reading: Iterable[tuple[NDArray[np.int64], Future[Tensor]]]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        for numbers, maps in reading:
            yield numbers, maps.result().to(self.device, non_blocking=True)
