"""Millions of frames by number: images in memory, image files and shards, in chunks that are read together.

Only chunks are listed, so a table of 16 million frames takes a few megabytes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fmce.data.frames.shards import ShardFolder, ShardReader
from fmce.data.image_reader import ImageArray

Payload = bytes | str | ImageArray
"""A frame before decoding: bytes or path of an image file, or the image uint8 (H,W,3) itself."""
Numbers = NDArray[np.int64]


class MemoryFrames:
    """Images uint8 (N,3,H,W) in memory, one per chunk."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.sizes = images, np.ones(len(images), np.int64)

    def fetch(self, chunk: int) -> list[Payload]:
        """Return the image."""
        return [self.images[chunk].permute(1, 2, 0).numpy()]

    def keys(self, chunk: int) -> list[str]:
        """Name the image by its position."""
        return [f"labelled image {chunk}"]


class FileFrames:
    """Image files, one per chunk; decoding opens them."""

    def __init__(self, paths: Iterable[Path | str]) -> None:
        self.paths = tuple(str(path) for path in paths)
        self.sizes = np.ones(len(self.paths), np.int64)

    def keys(self, chunk: int) -> list[str]:
        """Return the path, which is both what is fetched and its name."""
        return [self.paths[chunk]]

    fetch = keys


class ShardFrames:
    """The frames of a folder of shards; the first fetch connects to it."""

    def __init__(self, folder: ShardFolder) -> None:
        self.folder = folder
        per_shard = np.array([shard.num_chunks for shard in folder.shards], np.int64)
        self._first = np.concatenate([[0], per_shard.cumsum()])
        sizes = [s.chunk_size(i) for s in folder.shards for i in range(s.num_chunks)]
        self.sizes = np.array(sizes, np.int64)
        self._reader: ShardReader | None = None

    def fetch(self, chunk: int) -> list[bytes]:
        """Read a chunk in one request."""
        if self._reader is None:
            self._reader = ShardReader(self.folder)
        shard, within = self._locate(chunk)
        return self._reader.fetch(self.folder.shards[shard], within)

    def keys(self, chunk: int) -> list[str]:
        """Return the keys in the tar."""
        shard, within = self._locate(chunk)
        return self.folder.shards[shard].chunk_keys(within)

    def _locate(self, chunk: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._first, chunk, side="right")) - 1
        return shard, chunk - int(self._first[shard])


FrameSource = MemoryFrames | FileFrames | ShardFrames
"""Frames of one place. `sizes` has the number of frames of each chunk; the order of chunks never changes."""


class FrameTable:
    """Frames of several sources under the numbers 0 … N − 1, without those left out.

    Attributes:
        sources: Where the frames are.
        chunks: Numbers, over all sources, of the chunks in the table, ascending.
        dropped: Positions, over all frames of all sources, that are left out of their chunks.
        sizes: Remaining frames of each chunk.
        starts: Number of the first frame of each chunk, and N.
    """

    def __init__(
        self,
        sources: Sequence[FrameSource],
        *,
        chunks: Numbers | None = None,
        dropped: Iterable[int] = (),
    ) -> None:
        self.sources = tuple(sources)
        counts = [len(source.sizes) for source in self.sources]
        self._first_chunk = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        sizes = np.concatenate([np.zeros(0, np.int64), *(s.sizes for s in self.sources)])
        self._raw_starts = np.concatenate([[0], sizes.cumsum()])
        self.chunks = np.arange(len(sizes)) if chunks is None else np.asarray(chunks, np.int64)
        self.dropped = np.unique(np.fromiter(dropped, np.int64))
        lost = np.diff(np.searchsorted(self.dropped, self._raw_starts))
        self.sizes = (sizes - lost)[self.chunks]
        self.starts = np.concatenate([[0], self.sizes.cumsum()])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def chunk_of(self, numbers: Numbers) -> Numbers:
        """Return the chunk of each frame, as a position in `chunks`."""
        return np.searchsorted(self.starts, numbers, side="right") - 1

    def fetch(self, chunk: int) -> list[Payload]:
        """Read the frames of a chunk, in the order of their numbers."""
        source, within = self._locate(chunk)
        found = source.fetch(within)
        return [found[i] for i in self._kept(chunk)]

    def key(self, number: int) -> str:
        """Name a frame."""
        chunk = int(self.chunk_of(np.array([number]))[0])
        source, within = self._locate(chunk)
        return source.keys(within)[int(self._kept(chunk)[number - int(self.starts[chunk])])]

    def _locate(self, chunk: int) -> tuple[FrameSource, int]:
        raw = int(self.chunks[chunk])
        number = int(np.searchsorted(self._first_chunk, raw, side="right")) - 1
        return self.sources[number], raw - int(self._first_chunk[number])

    def _kept(self, chunk: int) -> Numbers:
        """Return the positions within a chunk that are not left out."""
        start, end = self._raw_starts[self.chunks[chunk] : self.chunks[chunk] + 2]
        low, high = np.searchsorted(self.dropped, [start, end])
        return np.setdiff1d(np.arange(end - start), self.dropped[low:high] - start)
