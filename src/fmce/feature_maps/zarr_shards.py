"""The FMCS-Dataset on disk: one zarr 3 group per marker, with a float16 array (N,C,h,w) per part of the images.

Chunks hold 64 maps, compressed by zstd level 1, each with a CRC-32C that every read checks; 512 maps make
a shard, which is one file. A marker's group appears under its name when all its files are on disk.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmce.digests import check_file, digest_of, file_digest, read_record
from fmce.files import reading, write_folder

CHUNK, SHARD, ZSTD_LEVEL = 64, 512, 1
# Attributes of a group: digests of what describes its arrays, and of all other attributes.
_ARRAYS, _SEAL = "sha256_of_arrays", "sha256"
_INDEX_BYTES = 16 * (SHARD // CHUNK) + 4  # offset and length of each chunk, and a checksum


def marker_folder(store: Path, epoch: int) -> Path:
    """Return the folder of a marker's maps in a store."""
    return store / f"epoch_{epoch:04d}"


def stored_markers(store: Path) -> list[int]:
    """Return the epochs of the markers' groups; those that are being written are left out."""
    names = (re.fullmatch(r"epoch_(\d{4,9})", f.name) for f in sorted(store.glob("epoch_*")))
    return [int(name[1]) for name in names if name]


def marker_attributes(folder: Path) -> dict[str, Any]:
    """Return the attributes of a marker's group.

    Raises:
        ValueError: If its description, or that of one of its arrays, is damaged.
    """
    file = folder / "zarr.json"
    with reading(file, "a zarr group that fmce extract wrote", _REMEDY):
        attributes = dict(read_record(file, ("attributes",), _REMEDY)["attributes"])
        noted, arrays = attributes.pop(_SEAL, None), attributes.pop(_ARRAYS, {})
        if noted not in (None, digest_of({**attributes, _ARRAYS: arrays})):
            raise ValueError(f"{file} is damaged: its attributes are not those written; {_REMEDY}")
        for name, digest in arrays.items():
            check_file(folder / name, digest, _REMEDY)
    return attributes


def store_bytes(num_maps: int, shape: tuple[int, int, int], ratio: float = 1.0) -> int:
    """Return the disk space in bytes of maps (C,h,w), compressed to `ratio` of their size.

    >>> store_bytes(600_000, (1024, 7, 7)) // 10**9
    60
    """
    shards = -(-num_maps // SHARD)
    return int(num_maps * int(np.prod(shape)) * 2 * ratio) + shards * _INDEX_BYTES


def compressed_share(maps: Tensor) -> float:
    """Return the size of maps (B,C,h,w) as stored over their size in float16."""
    from numcodecs import Zstd

    plain = to_float16(maps).numpy().tobytes()
    return len(Zstd(level=ZSTD_LEVEL).encode(plain)) / len(plain)


def to_float16(maps: Tensor) -> Tensor:
    """Round maps to float16 on the CPU: 11 bits of fraction, a relative error below 5e-4."""
    rounded = maps.to(torch.float16)
    if not torch.isfinite(rounded).all():
        raise ValueError(
            f"expected maps within ±65504, float16's range, got {maps.abs().max().item():.4g}; these maps "
            "cannot be stored, use fmce_net.storage=recompute"
        )
    return rounded.cpu()


def write_marker(
    folder: Path, parts: Mapping[str, tuple[int, Iterable[Tensor]]], attributes: Mapping[str, Any]
) -> None:
    """Write the maps of one marker atomically, in place of an earlier group of that name.

    Args:
        folder: From `marker_folder`.
        parts: By name the number of maps N and the maps in shards (512,C,h,w), the last one smaller.
        attributes: JSON values kept in the group.
    """
    zarr = _zarr()

    def fill(target: Path) -> None:
        group = zarr.open_group(target, mode="w", attributes=dict(attributes))
        for name, (count, shards) in parts.items():
            _write_part(group, name, count, iter(shards))
        described = {
            f"{name}/zarr.json": file_digest(target / name / "zarr.json") for name in parts
        }
        complete = {**attributes, _ARRAYS: described}
        group.attrs.update({_ARRAYS: described, _SEAL: digest_of(complete)})

    folder.parent.mkdir(exist_ok=True)
    write_folder(folder, fill)


def _write_part(group: Any, name: str, count: int, shards: Iterator[Tensor]) -> None:
    first = next(shards)
    shape = tuple(first.shape[1:])
    codecs = _zarr().codecs
    array = group.create_array(
        name,
        shape=(count, *shape),
        chunks=(CHUNK, *shape),
        shards=(SHARD, *shape),
        dtype="float16",
        compressors=[codecs.ZstdCodec(level=ZSTD_LEVEL), codecs.Crc32cCodec()],
        fill_value=0,
        dimension_names=("image", "channel", "row", "column"),
        # Chunks of zeros are written too: a missing file must not read as zeros.
        config={"write_empty_chunks": True},
    )
    starts = range(0, count, SHARD)
    with ThreadPoolExecutor(1) as writer:
        writing: Future[None] | None = None
        for start, maps in zip(starts, itertools.chain([first], shards), strict=True):
            if writing is not None:
                writing.result()
            # The network computes the next shard while this one is compressed.
            rows = slice(start, start + len(maps))
            writing = writer.submit(array.__setitem__, rows, to_float16(maps).numpy())
        if writing is not None:
            writing.result()


class StoredPart:
    """One part of the images in the groups of K markers; safe to read from several threads."""

    def __init__(self, folders: Sequence[Path], part: str) -> None:
        """Open the group of each phase, in the order of the phases; `part` is "train" or "test"."""
        self.folders, self.part = list(folders), part
        self._arrays = [_zarr().open_array(folder / part, mode="r") for folder in folders]
        self.num_phases, self.num_images = len(folders), self._arrays[0].shape[0]
        self.map_shape: tuple[int, int, int] = tuple(self._arrays[0].shape[1:])

    def read(self, phase: int, first: int, stop: int) -> Tensor:
        """Return maps first … stop − 1 of a phase (from 0), all of one shard: float16 (B,C,h,w).

        Raises:
            ValueError: If the shard is missing or damaged; the message names its file.
        """
        file = self.folders[phase] / self.part / "c" / f"{first // SHARD}" / "0" / "0" / "0"
        if not file.exists():  # zarr would read zeros
            raise ValueError(f"{file} is missing; {_REMEDY}")
        if file.stat().st_size < _INDEX_BYTES:  # and of an empty one
            raise ValueError(f"{file} is cut short; {_REMEDY}")
        try:
            maps = self._arrays[phase][first:stop]
        except (ValueError, RuntimeError, OSError) as error:
            raise ValueError(f"{file} is damaged ({error}); {_REMEDY}") from error
        return torch.from_numpy(np.asarray(maps))

    def verify(self) -> None:
        """Read every map, and so check every checksum; errors as in `read`."""
        for phase in range(self.num_phases):
            for first, stop in chunk_ranges(self.num_images, SHARD):
                self.read(phase, first, stop)


_REMEDY = "rerun fmce extract RUN, which rewrites the maps of that marker"


def chunk_ranges(count: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield first and stop of consecutive ranges of images; none crosses a shard's end."""
    return ((first, min(first + length, count)) for first in range(0, count, length))


def _zarr() -> Any:
    try:
        import zarr
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("stored maps need zarr: pip install 'fmce[maps]'") from error
    return zarr
