"""Sets of feature maps by number, their batches, and how a training shuffles them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fmce.data.batch_slice import ALL_ROWS, require_row_per_rank
from fmce.feature_maps.shuffle_buffer import MapNumbers, Pieces, plan_shuffle, shuffled_maps
from fmce.seeding import map_epoch_seed


class MapBatch(NamedTuple):
    """Feature maps and what they are maps of; what FMCE-Net predicts from `maps` is `phases`.

    Attributes:
        maps: float32 (B,C,h,w).
        phases: Convergence phase of each map's checkpoint, 1 … K, int64 (B,).
        image_index: Position of each image in its split, int64 (B,).
        run: Number of the training run each map belongs to, int64 (B,).
    """

    maps: Tensor
    phases: Tensor
    image_index: Tensor
    run: Tensor


class MapSource(ABC):
    """A set of feature maps by number (see `splits`), however they are stored.

    The same numbers, batch size and generator give the same batches on every rank and in every process.
    """

    num_images: int
    num_phases: int
    num_runs: int

    @abstractmethod
    def batches(
        self,
        numbers: MapNumbers,
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

        Raises:
            ValueError: If a buffer is too small to shuffle in, or a stored map is missing or damaged.
        """


class BufferedMaps(MapSource):
    """Maps that arrive in rounds and are shuffled in a buffer; memory is reserved for `buffer` maps."""

    buffer: int

    def batches(
        self,
        numbers: MapNumbers,
        batch_size: int,
        generator: torch.Generator | None = None,
        rank_of: tuple[int, int] = ALL_ROWS,
    ) -> Iterator[MapBatch]:
        """Yield each numbered map once; see `MapSource.batches`."""
        wanted = np.zeros((self.num_runs * self.num_phases, self.num_images), dtype=bool)
        wanted.reshape(-1)[numbers] = True
        rounds = self._rounds(wanted, batch_size, generator)
        plan = plan_shuffle(rounds, batch_size, self.buffer, generator)
        for taken, maps in shuffled_maps(plan, self._fetch, rank_of):
            rows, images = np.divmod(taken, self.num_images)
            runs, phases = np.divmod(rows, self.num_phases)
            yield MapBatch(maps, *(torch.from_numpy(a) for a in (phases + 1, images, runs)))

    @abstractmethod
    def _rounds(
        self, wanted: np.ndarray, batch_size: int, generator: torch.Generator | None
    ) -> list[MapNumbers]:
        """Return the numbers of the wanted maps, bool (runs · phases, images), of each round."""

    @abstractmethod
    def _fetch(self, rounds: Sequence[MapNumbers]) -> Iterator[Pieces]:
        """Yield the maps of each round."""


class MapBatches:
    """Shuffled batches of a map source for a training loop; (seed, epoch) decides them."""

    def __init__(
        self,
        source: MapSource,
        numbers: MapNumbers,
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
