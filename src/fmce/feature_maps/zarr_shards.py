"""The FMCS-Dataset on disk: a zarr 3 array (K, N, C, h, w) of float16 for each part of the images.

Chunks of 64 maps, compressed by zstd level 1 and each with a CRC-32C that is checked on every read, in
shards of 512 maps of one phase. A shard is one file: whatever writes it owns it, nothing is shared.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

CHUNK, SHARD, ZSTD_LEVEL = 64, 512, 1
_INDEX_BYTES = 16 * (SHARD // CHUNK) + 4  # offset and length of each chunk, and a checksum


class Shard(NamedTuple):
    """One file of a store: maps first … stop − 1 of a phase (from 0) of a part."""

    part: str
    phase: int
    first: int
    stop: int

    @property
    def name(self) -> str:
        """Where the file stands inside the store, in zarr's default layout."""
        return f"{self.part}/c/{self.phase}/{self.first // SHARD}/0/0/0"


def shards_of(counts: Mapping[str, int], num_phases: int) -> list[Shard]:
    """Return all shards of a store, phase by phase.

    Args:
        counts: images of each part.
        num_phases: K.

    >>> [tuple(s) for s in shards_of({"train": 600}, 1)]
    [('train', 0, 0, 512), ('train', 0, 512, 600)]
    """
    return [
        Shard(part, phase, first, min(first + SHARD, count))
        for phase in range(num_phases)
        for part, count in counts.items()
        for first in range(0, count, SHARD)
    ]


def store_bytes(num_maps: int, shape: tuple[int, int, int], ratio: float = 1.0) -> int:
    """Return what that many maps take on disk.

    Args:
        num_maps: phases times images.
        shape: C, h, w of a map.
        ratio: compressed over plain size; 1 is an upper bound.

    >>> store_bytes(600_000, (1024, 7, 7)) // 10**9
    60
    """
    shards = -(-num_maps // SHARD)
    return int(num_maps * int(np.prod(shape)) * 2 * ratio) + shards * _INDEX_BYTES


def compressed_share(maps: Tensor) -> float:
    """Return the size of maps (B,C,h,w) as stored, over their size in float16."""
    from numcodecs import Zstd

    plain = to_float16(maps).numpy().tobytes()
    return len(Zstd(level=ZSTD_LEVEL).encode(plain)) / len(plain)


def to_float16(maps: Tensor) -> Tensor:
    """Round maps to float16 on the CPU: 11 bits of fraction, a relative error below 5e-4.

    Raises:
        ValueError: a value is beyond ±65504, or not finite.
    """
    rounded = maps.to(torch.float16)
    if not torch.isfinite(rounded).all():
        raise ValueError(
            f"expected maps within ±65504, float16's range, got {maps.abs().max().item():.4g}; these maps "
            "cannot be stored, use fmce_net.storage=recompute"
        )
    return rounded.cpu()


def create_store(
    folder: Path,
    counts: Mapping[str, int],
    num_phases: int,
    shape: tuple[int, int, int],
    attributes: Mapping[str, Any],
) -> None:
    """Make the arrays of a store, all shards missing; what is there already stays.

    Args:
        folder: of the zarr group.
        counts: images of each part; a part becomes an array of its name.
        num_phases: K.
        shape: C, h, w of a map.
        attributes: JSON values kept in the group, for whoever finds it.
    """
    zarr = _zarr()
    group = zarr.open_group(folder, mode="a")
    group.attrs.update(dict(attributes))
    for part, count in counts.items():
        if part not in group:
            group.create_array(
                part,
                shape=(num_phases, count, *shape),
                chunks=(1, CHUNK, *shape),
                shards=(1, SHARD, *shape),
                dtype="float16",
                compressors=[zarr.codecs.ZstdCodec(level=ZSTD_LEVEL), zarr.codecs.Crc32cCodec()],
                fill_value=0,
                dimension_names=("phase", "image", "channel", "row", "column"),
            )


def write_shard(folder: Path, shard: Shard, maps: Tensor) -> Path:
    """Write a shard's maps (B,C,h,w), in place of any file of its name; return the file."""
    # Chunks that are all zeros are written too: a shard that is missing must not read as zeros.
    file = folder / shard.name
    file.unlink(
        missing_ok=True
    )  # into a shard that is there zarr would merge, so it would read it first
    array = _zarr().open_array(folder / shard.part, mode="r+")
    array = array.with_config({"write_empty_chunks": True})
    array[shard.phase, shard.first : shard.stop] = to_float16(maps).numpy()
    return file


class StoredPart:
    """One part of a store, to be read; safe to use from several threads."""

    def __init__(self, folder: Path, part: str) -> None:
        """Open a part.

        Raises:
            ModuleNotFoundError: zarr is not installed.
        """
        self.folder, self.part = folder, part
        self._array = _zarr().open_array(folder / part, mode="r")
        self.num_phases, self.num_images = self._array.shape[:2]
        self.map_shape: tuple[int, int, int] = tuple(self._array.shape[2:])

    def read(self, phase: int, first: int, stop: int) -> Tensor:
        """Return maps first … stop − 1 of a phase (from 0), all of one shard: (B,C,h,w) float16.

        Raises:
            ValueError: the shard is missing or damaged; the message names its file.
        """
        file = self.folder / Shard(self.part, phase, first, stop).name
        if not file.exists():  # zarr would read zeros
            raise ValueError(f"{file} is missing; {_REMEDY}")
        try:
            maps = self._array[phase, first:stop]
        except (ValueError, RuntimeError, OSError) as error:
            raise ValueError(f"{file} is damaged ({error}); {_REMEDY}") from error
        return torch.from_numpy(np.asarray(maps))


_REMEDY = "give fmce extract RUN again, which writes damaged shards anew"


def chunk_ranges(count: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield first and stop of runs of that many images; a run never crosses a shard's end.

    Args:
        count: images.
        length: a multiple of CHUNK that divides SHARD.
    """
    return ((first, min(first + length, count)) for first in range(0, count, length))


def _zarr() -> Any:
    try:
        import zarr
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "stored maps need zarr; install it with: pip install 'fmce[maps]'"
        ) from error
    return zarr
