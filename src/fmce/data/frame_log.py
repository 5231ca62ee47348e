"""Which frames each interval of a training saw, in text files of keys: proof that none was lost."""

import os
from collections.abc import Iterator
from pathlib import Path

from fmce.data.batch import ViewBatch
from fmce.data.frame_batches import FrameBatches


class LoggedBatches:
    """Batches whose frames' keys are written down when an interval is over, in the order of use."""

    def __init__(self, batches: FrameBatches, folder: Path) -> None:
        """Describe the batches.

        Args:
            batches: What is trained on.
            folder: Gets `epoch_0001.txt`, …, one key a line; an interval repeated after a kill
                replaces its file.
        """
        self.batches, self.folder = batches, folder

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int) -> Iterator[ViewBatch]:
        """Yield the batches of the 1-based interval."""
        keys = []
        for batch in self.batches.epoch(epoch):
            keys += [self.batches.pool.table.key(int(n)) for n in batch.image_index]
            yield batch
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"epoch_{epoch:04d}.txt"
        beside = path.with_name(f".{path.name}.tmp")
        beside.write_text("\n".join(keys) + "\n", encoding="utf-8")
        os.replace(beside, path)
