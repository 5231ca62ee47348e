"""The FMCS-Dataset read from disk in shuffled ranges of chunks, and shuffled further in a buffer."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from fmce.feature_maps.shuffle_buffer import BUFFER, MapNumbers, Pieces
from fmce.feature_maps.source import BufferedMaps
from fmce.feature_maps.zarr_shards import CHUNK, SHARD, StoredPart, chunk_ranges

# A read costs about a millisecond whatever its size, so several chunks of small maps are read at once.
READ_BYTES = 2**20
THREADS = 4


class StoredMaps(BufferedMaps):
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
        """
        kinds = {(p.num_phases, p.num_images, p.map_shape) for p in parts}
        if len(kinds) != 1:
            found = sorted(kinds)
            raise ValueError(f"expected stores with equal (phases, images, map shape), got {found}")
        ((self.num_phases, self.num_images, self.map_shape),) = kinds
        self.parts, self.device, self.buffer = parts, device, buffer
        self.num_runs = len(parts)

    def _rounds(
        self, wanted: np.ndarray, batch_size: int, generator: torch.Generator | None
    ) -> list[MapNumbers]:
        del batch_size  # as many ranges as a quarter of the buffer holds
        rows, ranges = range(len(wanted)), list(chunk_ranges(self.num_images, self.read_length))
        places = [(row, one) for row in rows for one in ranges]
        if generator is not None:  # each phase in its own order, so that a round has many images
            orders = [torch.randperm(len(ranges), generator=generator).tolist() for _ in rows]
            turns = zip(*orders, strict=True)
            places = [(row, ranges[i]) for turn in turns for row, i in enumerate(turn)]
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

    def _fetch(self, rounds: Sequence[MapNumbers]) -> Iterator[Pieces]:
        with ThreadPoolExecutor(THREADS) as pool:  # the next round is read while this one is used
            following = self._start(pool, rounds[0])
            for index in range(len(rounds)):
                reading = following
                if index + 1 < len(rounds):
                    following = self._start(pool, rounds[index + 1])
                yield self._pieces(reading)

    def _start(
        self, pool: ThreadPoolExecutor, numbers: MapNumbers
    ) -> list[tuple[MapNumbers, Future[Tensor]]]:
        units = numbers // self.num_images * -(-self.num_images // self.read_length)
        units += numbers % self.num_images // self.read_length
        parts = np.split(numbers, np.flatnonzero(np.diff(units)) + 1) if len(numbers) else []
        return [(part, pool.submit(self._read, part)) for part in parts]

    def _read(self, numbers: MapNumbers) -> Tensor:
        row, images = int(numbers[0] // self.num_images), numbers % self.num_images
        run, phase = divmod(row, self.num_phases)
        # Chunks are decoded completely anyway, so the maps between the wanted ones cost nothing more.
        first, stop = int(images[0]), int(images[-1]) + 1
        maps = self.parts[run].read(phase, first, stop)
        if len(maps) == len(images):
            return maps
        return maps.index_select(0, torch.from_numpy(images - first))

    def _pieces(self, reading: Iterable[tuple[MapNumbers, Future[Tensor]]]) -> Pieces:
        for numbers, maps in reading:
            yield numbers, maps.result().to(self.device, non_blocking=True)
