"""Tar shards of frames in WebDataset form, and the index `shards.json`.

It has the byte offset of every 16th frame, so a reader fetches 16 frames of a local or remote tar in one request. The
header of each frame has the CRC-32 of its file, in the field for the name of a user.
"""

import io
import itertools
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from fmce.data.frames.folders import is_excluded_name
from fmce.data.frames.remote_files import open_address, read_file, read_range
from fmce.data.frames.video import frame_key
from fmce.data.image_files import IMAGE_SUFFIXES, Stems, read_stems
from fmce.digests import checked_record, write_record
from fmce.files import reading, remove_leftovers, replacing

INDEX = "shards.json"
# Frames between two byte offsets of the index, fetched together. More would mean fewer requests, but
# also more frames of one video in a shuffle buffer of the same size.
CHUNK = 16


# Of extended headers, which hold long names; Python before 3.12.6 takes hours over one of megabytes.
_MOST_EXTENDED = 2**16
_EXTENDED = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class _Header(tarfile.TarInfo):
    """A member of a tar whose extended headers are short."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header of 512 bytes; raise ValueError where it announces a long extended one."""
        found = super().frombuf(buf, encoding, errors)
        if found.type in _EXTENDED and found.size > _MOST_EXTENDED:
            raise ValueError(
                f"an extended header of {found.size} bytes, where {_MOST_EXTENDED} are the most"
            )
        return found


@dataclass(frozen=True)
class Shard:
    """One tar: frames first, first + every, … of one video.

    Attributes:
        name: File name in the folder.
        prefix: Prefix of the keys.
        first: Number of the first frame among the decoded frames of the video.
        every: Step to the next frame.
        frames: Number of frames.
        offsets: Byte offsets of frames 0, 16, 32, … and of the end of the last.
    """

    name: str
    prefix: str
    first: int
    every: int
    frames: int
    offsets: tuple[int, ...]

    @property
    def num_chunks(self) -> int:
        """Number of chunks of up to 16 frames."""
        return len(self.offsets) - 1

    def chunk_size(self, chunk: int) -> int:
        """Return the number of frames of a chunk."""
        return min(CHUNK, self.frames - chunk * CHUNK)

    def chunk_keys(self, chunk: int) -> list[str]:
        """Return the keys of the frames of a chunk, in order."""
        numbers = range(chunk * CHUNK, chunk * CHUNK + self.chunk_size(chunk))
        return [frame_key(self.prefix, self.first + i * self.every) for i in numbers]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Shard":
        """Return the shard of a row of the index.

        Raises:
            TypeError: If a field is missing, unknown or of another type.
            ValueError: If there are more or fewer offsets than the frames need, or they do not ascend.
        """
        shard = cls(**{**values, "offsets": tuple(values["offsets"])})
        if "/" in shard.name or shard.num_chunks != -(-shard.frames // CHUNK) or shard.frames < 1:
            raise ValueError(f"{shard.frames} frames at {len(shard.offsets)} offsets")
        if any(not 0 <= a < b for a, b in itertools.pairwise(shard.offsets)):
            raise ValueError(f"offsets that do not ascend: {shard.offsets[:3]}…")
        return shard


@dataclass(frozen=True)
class ShardFolder:
    """A local or remote folder of shards, as its index describes it."""

    address: str
    shards: tuple[Shard, ...]

    @property
    def frames(self) -> int:
        """Number of frames of all shards."""
        return sum(shard.frames for shard in self.shards)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"address": self.address, "shards": [asdict(shard) for shard in self.shards]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ShardFolder":
        """Return the folder that `to_dict` described."""
        return cls(values["address"], tuple(map(Shard.from_dict, values["shards"])))


def write_shard(path: Path, frames: Iterable[tuple[str, bytes]]) -> None:
    """Write one shard of keys and JPEG files atomically; the same frames give the same bytes."""
    remove_leftovers(path)
    with replacing(path) as beside, tarfile.open(beside, "w") as tar:
        for key, jpeg in frames:
            member = tarfile.TarInfo(f"{key}.jpg")
            member.size, member.mode, member.uname = len(jpeg), 0o444, _checksum(jpeg)
            tar.addfile(member, io.BytesIO(jpeg))


def index_shard(path: Path, prefix: str, first: int, every: int) -> Shard:
    """Read a shard, compare its checksums, and return the offsets of its frames; the rest is as in `Shard`.

    Raises:
        ValueError: If it is damaged.
    """
    with (
        reading(path, "a complete shard of frames"),
        tarfile.open(path, "r:", tarinfo=_Header) as tar,
    ):
        members = tar.getmembers()
        for member in members:
            _content(tar, member)
        end = members[-1].offset_data + -(-members[-1].size // 512) * 512
    starts = [member.offset for member in members[::CHUNK]]
    return Shard(path.name, prefix, first, every, len(members), (*starts, end))


def write_index(folder: Path, shards: Sequence[Shard], about: Mapping[str, Any]) -> None:
    """Write the index of a folder of shards, sorted by name; without it, readers refuse the folder.

    `about` holds further facts to keep, such as settings and damaged videos.
    """
    rows = [asdict(shard) for shard in sorted(shards, key=lambda shard: shard.name)]
    write_record(folder / INDEX, {**about, "chunk": CHUNK, "shards": rows}, indent=None)


def holds_shards(address: str) -> bool:
    """Return whether a folder or fsspec address holds shards; other folders hold images."""
    return "://" in address or (Path(address) / INDEX).is_file() or any(Path(address).glob("*.tar"))


def open_shards(address: str, *, exclude: Stems = ()) -> ShardFolder:
    """Read the index of a folder of shards, without excluded videos.

    Args:
        address: A folder, or an address that fsspec understands (s3://…, gs://…, memory://…).
        exclude: Videos to leave out; possibly none is left.

    Raises:
        ValueError: If there is no index, or it has another format.
        UnreachableError: If the index cannot be read after all retries.
        ModuleNotFoundError: If fsspec, or its backend for this kind of address, is not installed.
    """
    shards = _read_index(str(address))
    out = _key_prefixes(read_stems(exclude))
    kept = tuple(shard for shard in shards if not is_excluded_name(shard.prefix, out))
    return ShardFolder(str(address), kept)


def _read_index(address: str) -> list[Shard]:
    files, root = open_address(address)
    try:
        index = json.loads(read_file(files, f"{root}/{INDEX}"))
        index = checked_record(index, f"{address}/{INDEX}", remedy="make it again with fmce frames")
    except FileNotFoundError:
        raise ValueError(
            f"expected {INDEX} in {address}, found none; `fmce frames` writes it last, and if that made "
            "these tars, give its command again so that it ends. Tars of other programs are not read: "
            "unpack their images and name that folder"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"expected JSON in {address}/{INDEX}, got {error}; copy it again from where the shards were made"
        ) from error
    chunk = index.get("chunk")
    if chunk is not None and chunk != CHUNK:
        raise ValueError(
            f"{address}/{INDEX} has offsets of every {chunk}th frame, this version of "
            f"fmce reads {CHUNK}; make the shards again"
        )
    try:
        return [Shard.from_dict(row) for row in index["shards"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"expected in {address}/{INDEX} what `fmce frames` writes, a table with shards that have "
            f"{', '.join(field.name for field in fields(Shard))}; got {type(error).__name__}: {error}; "
            "copy the index again from where the shards were made, or make them again"
        ) from error


def _key_prefixes(stems: frozenset[str]) -> frozenset[str]:
    return stems | {stem.replace(".", "_") for stem in stems}


def excluded_frames(folder: ShardFolder, exclude: Stems) -> list[int]:
    """Return the positions, among all frames of a folder, of frames whose own key is listed."""
    out = _key_prefixes(read_stems(exclude))
    found, start = [], 0
    for shard in folder.shards:
        # Most stems name videos, which `open_shards` left out; only others are compared with keys.
        if any(stem.startswith(f"{shard.prefix}-") for stem in out):
            keys = (key for chunk in range(shard.num_chunks) for key in shard.chunk_keys(chunk))
            found += [start + i for i, key in enumerate(keys) if key in out]
        start += shard.frames
    return found


class ShardReader:
    """Fetches chunks of frames from one folder of shards; safe to share between threads."""

    def __init__(self, folder: ShardFolder) -> None:
        """Connect to the folder; nothing is read yet.

        Raises:
            ModuleNotFoundError: If fsspec is not installed.
        """
        self.folder = folder
        self._files, self._root = open_address(folder.address)

    def fetch(self, shard: Shard, chunk: int) -> list[bytes]:
        """Fetch the image files of one chunk, in the order of `Shard.chunk_keys`.

        A file that cannot be read is empty, which decoding counts as damage. A lost connection is retried.

        Raises:
            UnreachableError: If nothing of the shard can be read after all retries.
        """
        raw = read_range(
            self._files, f"{self._root}/{shard.name}", *shard.offsets[chunk : chunk + 2]
        )
        found = dict(self._members(raw))
        return [found.get(key, b"") for key in shard.chunk_keys(chunk)]

    def _members(self, raw: bytes) -> Iterator[tuple[str, bytes]]:
        """Yield keys and image files of part of a tar, up to the first damage."""
        # Uncompressed alone: a few bytes of gzip could unpack to gigabytes.
        try:
            with tarfile.open(fileobj=io.BytesIO(raw), mode="r:", tarinfo=_Header) as tar:
                for member in tar:
                    key, _, suffix = member.name.rsplit("/", 1)[-1].partition(".")
                    if f".{suffix.lower()}" in IMAGE_SUFFIXES:
                        with suppress(ValueError):  # the checksum of this one alone
                            yield key, _content(tar, member)
        except Exception:  # whatever tarfile makes of damaged headers
            return


def _checksum(content: bytes) -> str:
    return f"crc32-{zlib.crc32(content):08x}"


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Return the file of a member, whose checksum is compared where it has one.

    Raises:
        ValueError: If it is damaged, or no regular file.
    """
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} is no regular file")
    content = file.read()
    noted = member.uname.startswith("crc32-")  # not in tars of other programs
    if len(content) != member.size or (noted and member.uname != _checksum(content)):
        raise ValueError(f"{member.name} is damaged: its checksum is another")
    return content
