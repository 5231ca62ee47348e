"""The FMCS-Dataset recomputed on the fly: K backbones stay on the device, nothing on disk.

FMCE paper, Section IV-D: the checkpoint of each epoch marker maps every image; the label of a map is the
phase of its checkpoint.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fmce.feature_maps.shuffle_buffer import BUFFER, MapNumbers, Pieces
from fmce.feature_maps.source import BufferedMaps

Extractor = Callable[[Tensor], Tensor]
"""Normalised images (B,3,H,W) → feature maps (B,C,h,w), in eval mode without gradients."""


class RecomputedMaps(BufferedMaps):
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
    ) -> None:
        """Describe the stream.

        Args:
            extractors: The K extractors of each run, in the order of the phases.
            images: Positions int64 (B,) → normalised images (B,3,H,W) on the extractors' device.
            num_images: N.
            block: Images per forward pass; fewer where the buffer is small.
            buffer: Maps that are shuffled with one another; memory is reserved for them.

        Raises:
            ValueError: If there are no extractors, or the runs differ in their number of phases.
        """
        counts = [len(run) for run in extractors]
        if len(set(counts)) != 1 or 0 in counts:
            raise ValueError(f"expected one or more runs with equally many phases, got {counts}")
        self.extractors, self.images, self.block, self.buffer = extractors, images, block, buffer
        self.num_runs, self.num_phases, self.num_images = len(extractors), counts[0], num_images

    def _rounds(
        self, wanted: np.ndarray, batch_size: int, generator: torch.Generator | None
    ) -> list[MapNumbers]:
        rows = len(wanted)
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

    def _fetch(self, rounds: Sequence[MapNumbers]) -> Iterator[Pieces]:
        return map(self._maps, rounds)

    def _maps(self, numbers: MapNumbers) -> Pieces:
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
