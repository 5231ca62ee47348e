"""Every n-th frame of videos as tar shards that a distillation streams.

Each video is one job. If interrupted, rerun the call to resume; the result is the same, byte for byte.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fmce.config.io import to_yaml
from fmce.console.progress import Progress
from fmce.data.frames.folders import is_excluded_name
from fmce.data.frames.shards import Shard, write_index
from fmce.data.frames.video import FrameSettings, list_videos
from fmce.data.frames.video_to_shards import (
    drop_damaged_shards,
    fingerprint,
    pack_video,
    record_names,
    video_record,
)
from fmce.data.image_files import first_names, read_stems, stem_of
from fmce.engine.jobs.local import run_jobs
from fmce.engine.runtime import cores
from fmce.runs.log import lock_run


def pack_videos(
    videos: Sequence[Path],
    out: Path,
    settings: FrameSettings | None = None,
    *,
    exclude: Path | None = None,
    max_damaged: float = 0.05,
    workers: int | None = None,
) -> dict[str, Any]:
    """Decode videos and write their frames as shards with an index.

    Args:
        videos: Files, and folders of them.
        out: Folder of the shards; more videos may join it later, with the same settings.
        settings: Which frames, and how they are stored.
        exclude: Text file of stems, one per line, of videos to leave out.
        max_damaged: Share of the videos, 0 to 1, that may be damaged; they are named and skipped.
        workers: Processes; one per core by default.

    Returns:
        "videos", "frames" and "bytes" in the folder; "packed", the videos decoded by this call, and its "seconds";
        "damaged", reasons by video.

    Raises:
        ValueError: If there are no videos, two have one name, more than `max_damaged` are damaged, or a video is
            not the one its shards were made from.
        FileExistsError: If the folder's shards have other settings.
    """
    if not 0 <= max_damaged <= 1:
        raise ValueError(f"max_damaged must be in 0 … 1, got {max_damaged}")
    settings = settings or FrameSettings()
    workers = workers or cores()
    found = list_videos(videos, exclude=exclude or ())
    started = time.perf_counter()
    with lock_run(out, to_yaml(settings)):
        missing = {name: path for name, path in found.items() if not _is_packed(out, name, path)}
        _pack(missing, len(found), out, settings, workers, max_damaged)
        result = _index(out, settings, read_stems(exclude or ()))
    return result | {"packed": len(missing), "seconds": time.perf_counter() - started}


def _is_packed(out: Path, prefix: str, video: Path) -> bool:
    """Return whether a video's shards are complete, and as they were written; a damaged video is tried again."""
    record = video_record(out, prefix)
    if record is None or "damaged" in record:
        return False
    source = fingerprint(video)
    if {name: record[name] for name in source} != source:
        raise ValueError(
            f"{video} has {source['bytes']} bytes, its shards in {out} were made from another video of "
            f"{record['bytes']}; rename it, choose another folder, or delete its shards and its record"
        )
    return not drop_damaged_shards(out, record)


def _pack(
    videos: dict[str, Path],
    num_videos: int,
    out: Path,
    settings: FrameSettings,
    workers: int,
    max_damaged: float,
) -> None:
    threads = max(1, cores() // workers)
    damaged: list[str] = []

    def check(prefix: str) -> None:
        reason = (video_record(out, prefix) or {}).get("damaged")
        if reason is None:
            return
        damaged.append(reason)
        if len(damaged) > max_damaged * num_videos:
            raise ValueError(
                f"{len(damaged)} of {num_videos} videos are damaged, more than {max_damaged:.0%}: "
                f"{first_names(damaged)}. Repair or exclude them, or raise --max-damaged; finished shards "
                "are kept"
            )

    arguments = {prefix: (path, out, settings, threads) for prefix, path in videos.items()}
    start = num_videos - len(videos)
    with Progress("packing videos", num_videos, start=start) as progress:
        if workers > 1:
            run_jobs(pack_video, arguments, workers, progress, what="videos", on_done=check)
            return
        for prefix, values in arguments.items():
            pack_video(*values)
            progress.advance(prefix)
            check(prefix)


def _index(out: Path, settings: FrameSettings, exclude: frozenset[str]) -> dict[str, Any]:
    shards: list[Shard] = []
    damaged: dict[str, str] = {}
    num_videos = 0
    for prefix in record_names(out):
        record = video_record(out, prefix)
        if record is None:  # damaged, and its video is not among those of this call
            raise ValueError(
                f"the record of {prefix} in {out} is damaged; name its video too, or delete the record and its shards"
            )
        if is_excluded_name(stem_of(record["video"]), exclude):
            continue
        if "damaged" in record:
            damaged[record["video"]] = record["damaged"]
            continue
        num_videos += 1
        shards += [Shard.from_dict(row) for row in record["shards"]]
    write_index(out, shards, {"settings": asdict(settings), "damaged": damaged})
    return {
        "videos": num_videos,
        "frames": sum(shard.frames for shard in shards),
        "bytes": sum(shard.offsets[-1] for shard in shards),
        "damaged": damaged,
    }
