"""Which frames each interval of a training saw, in text files of keys: proof that none was lost."""

from collections.abc import Callable, Iterator
from pathlib import Path

from fmce.data.batch import PoolBatch
from fmce.data.frames.batches import FrameBatches
from fmce.files import write_text

Frames = list[list[int]]
"""Numbers of the frames of each step."""


class LoggedBatches:
    """Batches whose frames' keys are written down when an interval is over, in the order of use."""

    def __init__(
        self,
        batches: FrameBatches,
        folder: Path,
        *,
        gather: Callable[[Frames], list[Frames]] = lambda own: [own],
        writes: bool = True,
    ) -> None:
        """Describe the batches.

        Args:
            batches: What is trained on.
            folder: Gets `epoch_0001.txt`, …, one key a line; an interval repeated after a kill
                replaces its file.
            gather: Gives all ranks' frames, in the order of ranks, for this one's.
            writes: Whether this rank writes them.
        """
        self.batches, self.folder = batches, folder
        self.gather, self.writes = gather, writes

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int) -> Iterator[PoolBatch]:
        """Yield the batches of the 1-based interval."""
        own: Frames = []
        for batch in self.batches.epoch(epoch):
            own.append(batch.image_index.tolist())
            yield batch
        steps = zip(*self.gather(own), strict=True)
        if self.writes:
            self._write(epoch, [n for parts in steps for part in parts for n in part])

    def _write(self, epoch: int, frames: list[int]) -> None:
        keys = map(self.batches.pool.table.key, frames)
        self.folder.mkdir(exist_ok=True)
        write_text(self.folder / f"epoch_{epoch:04d}.txt", "\n".join(keys) + "\n")
