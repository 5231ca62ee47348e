"""A pool of frames that stay in files, read and decoded on demand, never all in memory."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch

from fmce.data.frames.shards import ShardFolder
from fmce.data.frames.table import (
    FileFrames,
    FrameSource,
    FrameTable,
    MemoryFrames,
    Payload,
    ShardFrames,
)
from fmce.data.image_files import ReadFailures, read_or_substitute
from fmce.data.image_reader import DAMAGE_ERRORS, ImageArray, read_rgb
from fmce.data.pools import ImagePool, empty_pool, resize_and_center_crop, stack_images


@dataclass(frozen=True)
class FramePool:
    """Unlabelled frames in files and shards, resized to one size when they are read.

    Attributes:
        shuffle_buffer: Frames shuffled with one another.
        workers: Processes that decode; 0 decodes in the process that trains.
        max_damaged: Fraction of reads that may fail.
    """

    table: FrameTable
    height: int
    width: int
    shuffle_buffer: int = 2048
    workers: int = 0
    max_damaged: float = 0.01

    def __len__(self) -> int:
        return len(self.table)

    @property
    def device(self) -> torch.device:
        """The CPU, where frames are decoded."""
        return torch.device("cpu")

    @property
    def nbytes(self) -> int:
        """Bytes on the network's device beyond those of its batches: none."""
        return 0

    def to(self, _device: torch.device) -> Self:
        """Return the pool unchanged: its batches are made on the host and copied one by one."""
        return self

    def __radd__(self, images: ImagePool) -> Self:
        """Return a pool of images in memory and these frames."""
        sources = (MemoryFrames(images.images.cpu()), *self.table.sources)
        shift = len(images)
        chunks = np.concatenate([np.arange(shift), self.table.chunks + shift])
        table = FrameTable(sources, chunks=chunks, dropped=self.table.dropped + shift)
        return replace(self, table=table)

    def in_memory(self, numbers: Iterable[int] | None = None) -> ImagePool:
        """Read frames, by default all; the next readable one stands in for a damaged one, which the result names.

        Raises:
            UnreadableDataError: If more reads than `max_damaged` failed.
        """
        wanted = list(range(len(self)) if numbers is None else numbers)
        if not wanted:
            return empty_pool(self.height, self.width)
        failures = ReadFailures(self.max_damaged)

        fetch = lru_cache(maxsize=1)(self.table.fetch)  # neighbours are read once

        def read(number: int) -> ImageArray:
            chunk = int(self.table.chunk_of(np.array([number]))[0])
            payload = fetch(chunk)[number - int(self.table.starts[chunk])]
            return decode(payload, self.height, self.width)

        key = self.table.key
        images = (read_or_substitute(n, len(self), read, failures, key) for n in wanted)
        stacked = stack_images(images, len(wanted))
        return ImagePool(stacked, damaged=tuple(key(n) for n in failures.failed_items))

    def to_dict(self) -> dict[str, Any]:
        """Return the frames of the pool as plain values for JSON."""
        table = self.table
        sources = [_describe(source) for source in table.sources]
        chunks, dropped = table.chunks.tolist(), table.dropped.tolist()
        return {"sources": sources, "chunks": chunks, "dropped": dropped}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **options: Any) -> "FramePool":
        """Return the pool that `to_dict` described; the options are its other fields."""
        sources = [
            FileFrames(row["files"])
            if "files" in row
            else ShardFrames(ShardFolder.from_dict(row["shards"]))
            for row in values["sources"]
        ]
        chunks = np.array(values["chunks"], np.int64)
        return cls(FrameTable(sources, chunks=chunks, dropped=values["dropped"]), **options)


def _describe(source: FrameSource) -> dict[str, Any]:
    if isinstance(source, FileFrames):
        return {"files": list(source.paths)}
    if isinstance(source, ShardFrames):
        return {"shards": source.folder.to_dict()}
    raise TypeError(f"{type(source).__name__} is in no file")


def decode(frame: Payload, height: int, width: int) -> ImageArray:
    """Decode a frame to uint8 (height,width,3).

    Raises:
        OSError: If it cannot be decoded (or another of `image_reader.DAMAGE_ERRORS`).
    """
    if isinstance(frame, np.ndarray):
        return resize_and_center_crop(frame, height, width)
    return resize_and_center_crop(read_rgb(frame), height, width)


def decode_batch(
    frames: Iterable[Payload], height: int, width: int
) -> tuple[list[ImageArray], list[tuple[int, str]]]:
    """Decode frames; the next readable one of the batch stands in for a damaged one.

    Returns:
        Images uint8 (height,width,3), none where all frames are damaged; row and reason of each damage.
    """
    images: list[ImageArray | None] = []
    damaged: list[tuple[int, str]] = []
    for row, frame in enumerate(frames):
        try:
            images.append(decode(frame, height, width))
        except DAMAGE_ERRORS as error:
            images.append(None)
            damaged.append((row, _reason(frame, error)))
    following = next((image for image in images if image is not None), None)
    for row in reversed(range(len(images))):
        images[row] = following = following if images[row] is None else images[row]
    return [image for image in images if image is not None], damaged


def _reason(frame: Payload, error: Exception) -> str:
    return "missing or cut off" if frame == b"" else str(error) or type(error).__name__
