"""One video to its shards, in a process of its own; a kill costs at most the shard being written."""

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmce.data.shards import Shard, index_shard, write_shard
from fmce.data.video import (
    DamagedVideoError,
    FrameSettings,
    decode_video,
    frame_key,
    frame_prefix,
    to_jpeg,
)

if TYPE_CHECKING:
    from av import VideoFrame

# One small file a video says that its shards are whole; hidden, since readers need the index only.
RECORDS = ".videos"


def pack_video(video: Path, out: Path, settings: FrameSettings, threads: int = 1) -> None:
    """Write the shards of a video and then its record; finished shards are left as they are.

    A damaged video gets a record that says so, and no shards.

    Args:
        video: The file.
        out: Folder of the shards.
        settings: Which frames, and how they are stored.
        threads: Of the decoder.
    """
    prefix = frame_prefix(video.name)
    made: list[Path] = []
    try:
        shards = list(_shards(video, prefix, out, settings, threads, made))
    except DamagedVideoError as error:
        for path in made:
            path.unlink(missing_ok=True)
        _write_record(out, prefix, {"video": video.name, "damaged": str(error)})
        return
    about = {"video": video.name, "bytes": video.stat().st_size}
    _write_record(out, prefix, about | {"shards": [asdict(shard) for shard in shards]})


def _shards(
    video: Path, prefix: str, out: Path, settings: FrameSettings, threads: int, made: list[Path]
) -> Iterator[Shard]:
    frames = decode_video(video, settings.every, threads=threads)
    for number in itertools.count():
        part = list(itertools.islice(frames, 1))
        if not part:
            return
        whole = itertools.chain(part, itertools.islice(frames, settings.shard_frames - 1))
        path = out / f"{prefix}-{number:04d}.tar"
        made.append(path)
        if path.exists():
            for _ in whole:  # decoded all the same: later frames depend on earlier ones
                pass
        else:
            write_shard(path, _encoded(whole, prefix, settings))
        yield index_shard(path, prefix, part[0][0], settings.every)


def _encoded(
    frames: Iterator[tuple[int, "VideoFrame"]], prefix: str, settings: FrameSettings
) -> Iterator[tuple[str, bytes]]:
    for number, frame in frames:
        yield frame_key(prefix, number), to_jpeg(frame, settings.height, settings.quality)


def read_record(out: Path, prefix: str) -> dict[str, Any] | None:
    """Return what is known of a video's shards; None where they are not whole yet."""
    path = out / RECORDS / f"{prefix}.json"
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def record_names(out: Path) -> list[str]:
    """Return the prefixes of all videos that were packed or found damaged, sorted."""
    return sorted(path.stem for path in (out / RECORDS).glob("[!.]*.json"))


def _write_record(out: Path, prefix: str, record: Mapping[str, Any]) -> None:
    folder = out / RECORDS
    folder.mkdir(exist_ok=True)
    beside = folder / f".{prefix}.tmp"
    with open(beside, "w", encoding="utf-8") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, folder / f"{prefix}.json")
