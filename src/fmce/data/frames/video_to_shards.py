"""Packing one video into shards in a process of its own; a kill costs at most the shard being written."""

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmce.console.log import logger
from fmce.data.frames.shards import Shard, index_shard, write_shard
from fmce.data.frames.video import (
    DamagedVideoError,
    FrameSettings,
    decode_video,
    frame_key,
    frame_prefix,
    to_jpeg,
)
from fmce.digests import check_file, file_digest, read_record_or_none, write_record

if TYPE_CHECKING:
    from av import VideoFrame

# One small file per video says that its shards are complete; hidden, since readers need only the index.
RECORDS = ".videos"
# Bytes at each end of a video that identify it.
_END = 2**16


def pack_video(video: Path, out: Path, settings: FrameSettings, threads: int = 1) -> None:
    """Write the shards of a video and then its record; complete shards of this video are kept.

    A damaged video gets a record that says so, and no shards. Shards that a killed call made from another
    video of this name are replaced.

    Args:
        video: The file.
        out: Folder of the shards.
        settings: Which frames, and how they are stored.
        threads: Threads of the decoder.
    """
    prefix = frame_prefix(video.name)
    try:
        source = fingerprint(video)
        _keep_shards_of(source, out, prefix)
        shards = list(_shards(video, prefix, out, settings, threads))
    except DamagedVideoError as error:
        _delete_shards(out, prefix)
        _write_record(out, prefix, {"video": video.name, "damaged": str(error)})
        return
    about = {"video": video.name, **source, "shards": [asdict(shard) for shard in shards]}
    digests = {shard.name: file_digest(out / shard.name) for shard in shards}
    _write_record(out, prefix, about | {"sha256": digests})


def fingerprint(video: Path) -> dict[str, Any]:
    """Return size and hash of both ends of a video, which distinguish it from others of its name.

    Different videos differ there, in their index; reading them completely would take hours.

    Raises:
        DamagedVideoError: If the file cannot be read.
    """
    try:
        size = video.stat().st_size
        with open(video, "rb") as file:
            digest = hashlib.sha256(file.read(_END))
            file.seek(max(0, size - _END))
            digest.update(file.read(_END))
    except OSError as error:
        raise DamagedVideoError(f"{video} cannot be read: {error.strerror}") from error
    return {"bytes": size, "ends": digest.hexdigest()}


def _keep_shards_of(source: Mapping[str, Any], out: Path, prefix: str) -> None:
    """Delete shards made from another source, and note this one before its first shard."""
    begun = out / RECORDS / f".{prefix}.source"
    with suppress(ValueError):  # damaged: as if they were another video's
        if read_record_or_none(begun) == source:
            return
    _delete_shards(out, prefix)
    begun.parent.mkdir(exist_ok=True)
    write_record(begun, source)


def _delete_shards(out: Path, prefix: str) -> None:
    own = re.compile(rf"{re.escape(prefix)}-\d{{4,}}\.tar")  # not those of a video "PREFIX-0001"
    for path in out.glob("*.tar"):
        if own.fullmatch(path.name):
            path.unlink()


def _shards(
    video: Path, prefix: str, out: Path, settings: FrameSettings, threads: int
) -> Iterator[Shard]:
    frames = decode_video(video, settings.every, threads=threads)
    for number in itertools.count():
        part = list(itertools.islice(frames, 1))
        if not part:
            return
        shard = itertools.chain(part, itertools.islice(frames, settings.shard_frames - 1))
        path = out / f"{prefix}-{number:04d}.tar"
        if _is_intact(path):
            for _ in shard:  # decoded even so: later frames depend on earlier ones
                pass
        else:
            write_shard(path, _encoded(shard, prefix, settings))
        yield index_shard(path, prefix, part[0][0], settings.every)


def _is_intact(shard: Path) -> bool:
    with suppress(ValueError, FileNotFoundError):
        index_shard(shard, "", 0, 1)
        return True
    return False


def _encoded(
    frames: Iterator[tuple[int, "VideoFrame"]], prefix: str, settings: FrameSettings
) -> Iterator[tuple[str, bytes]]:
    for number, frame in frames:
        yield frame_key(prefix, number), to_jpeg(frame, settings.height, settings.quality)


def video_record(out: Path, prefix: str) -> dict[str, Any] | None:
    """Return the record of a video; None while its shards are incomplete, or if the record is damaged."""
    try:
        return read_record_or_none(out / RECORDS / f"{prefix}.json", "the video is packed again")
    except ValueError as error:
        logger.warning("%s", error)
        return None


def drop_damaged_shards(out: Path, record: Mapping[str, Any]) -> list[str]:
    """Delete the shards of a video that are not as they were written; return the names of these and missing ones."""
    damaged = []
    for name, digest in record.get("sha256", {}).items():
        try:
            check_file(out / name, digest, "its video is packed again")
        except ValueError as error:
            logger.warning("%s", error)
            (out / name).unlink(missing_ok=True)
            damaged.append(name)
    return damaged


def record_names(out: Path) -> list[str]:
    """Return the prefixes of all videos that were packed or are damaged, sorted."""
    return sorted(path.stem for path in (out / RECORDS).glob("[!.]*.json"))


def _write_record(out: Path, prefix: str, record: Mapping[str, Any]) -> None:
    (out / RECORDS).mkdir(exist_ok=True)
    write_record(out / RECORDS / f"{prefix}.json", record, indent=None)
