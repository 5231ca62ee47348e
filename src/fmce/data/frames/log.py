"""Text files of the frames that each interval of a training saw: evidence that none was lost."""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from fmce.data.batch import PoolBatch
from fmce.data.frames.batches import FrameBatches
from fmce.files import write_text

Frames = list[list[int]]
"""Numbers of the frames of each step."""


@dataclass(eq=False)
class LoggedBatches:
    """Batches that record the keys of their frames, in the order of use, at the end of each interval.

    Attributes:
        batches: Those of this rank.
        folder: Gets `epoch_0001.txt`, …, one key per line; an interval repeated after a kill
            replaces its file.
        gather: This rank's frames → the frames of all ranks, in the order of ranks.
        writes: Whether this rank writes the files.
    """

    batches: FrameBatches
    folder: Path
    _: KW_ONLY
    gather: Callable[[Frames], list[Frames]] = lambda own: [own]
    writes: bool = True

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
            frames = (n for parts in steps for part in parts for n in part)
            keys = map(self.batches.pool.table.key, frames)
            self.folder.mkdir(exist_ok=True)
            write_text(self.folder / f"epoch_{epoch:04d}.txt", "\n".join(keys) + "\n")
