"""The FMCS-Dataset in memory: each map is computed once, for data sets that fit."""

from collections.abc import Iterator
from typing import Self

import numpy as np
import torch

from fmce.data.batch_slice import ALL_ROWS, own_rows
from fmce.feature_maps.shuffle_buffer import MapNumbers
from fmce.feature_maps.source import MapBatch, MapSource


class InMemoryMaps(MapSource):
    """All maps of a source, kept on one device."""

    def __init__(self, maps: MapBatch, num_images: int, num_phases: int, num_runs: int) -> None:
        """Keep maps in the order of their numbers; `from_source` computes them."""
        self.maps = maps
        self.num_images, self.num_phases, self.num_runs = num_images, num_phases, num_runs

    @classmethod
    def from_source(cls, source: MapSource) -> Self:
        """Compute every map of a source once.

        Args:
            source: Usually `RecomputedMaps`. Memory: 4 bytes for each of K·N·C·h·w values per run.

        Raises:
            ValueError: If the source has no images.
        """
        total = source.num_runs * source.num_phases * source.num_images
        kept: MapBatch | None = None
        for part in source.batches(np.arange(total), 1024):
            if kept is None:  # allocated once: concatenating at the end would hold all maps twice
                kept = MapBatch(*(t.new_empty((total, *t.shape[1:])) for t in part))
            row = part.run * source.num_phases + part.phases - 1
            numbers = row * source.num_images + part.image_index
            for column, values in zip(kept, part, strict=True):
                column[numbers.to(column.device)] = values
        if kept is None:
            raise ValueError("the source has no maps; it needs at least one image")
        return cls(kept, source.num_images, source.num_phases, source.num_runs)

    def batches(
        self,
        numbers: MapNumbers,
        batch_size: int,
        generator: torch.Generator | None = None,
        rank_of: tuple[int, int] = ALL_ROWS,
    ) -> Iterator[MapBatch]:
        """Yield each numbered map once; see `MapSource.batches`. Shuffling covers all of them."""
        if not len(numbers):
            return  # torch.split would make one empty batch
        index = torch.from_numpy(numbers)
        if generator is not None:
            index = index[torch.randperm(len(index), generator=generator)]
        for rows in own_rows(torch.split(index, batch_size), rank_of):
            yield MapBatch(*(t[rows.to(t.device)] for t in self.maps))
