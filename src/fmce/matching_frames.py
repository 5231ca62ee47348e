"""The unlabelled frames of a function-matching experiment: in memory where they fit, else left in files."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fmce.data.frame_choice import choose_frames
from fmce.data.frame_pool import FramePool
from fmce.data.frame_table import FileFrames, FrameTable, ShardFrames
from fmce.data.frames import is_excluded, list_frames
from fmce.data.image_files import stem_of
from fmce.data.memory import available_memory
from fmce.data.pools import ImagePool
from fmce.data.shards import excluded_frames, holds_shards, open_shards
from fmce.engine.files import read_json, write_json
from fmce.matching_config import PoolConfig
from fmce.matching_pools import forbidden_stems

_FILE = "unlabelled.json"
# Beyond this, reading everything before the first step and keeping a second copy is worth nobody's time.
_LARGEST_IN_MEMORY = 4 * 2**30
# Largest share of free memory that the pools may take together.
_MEMORY_SHARE = 0.6


def unlabelled_pools(
    config: PoolConfig,
    validation: Iterable[str],
    labelled: Iterable[str],
    left_out: Sequence[Path],
    *,
    others: int,
) -> tuple[ImagePool | FramePool, ImagePool]:
    """Find the frames of `config.folders`: folders of images, folders or addresses of shards.

    Args:
        config: which frames, how many, and whether they are read into memory.
        validation: stems of the validation images, which must not be in the pool.
        labelled: stems of the labelled images, which are trained on anyway; other frames of their
            videos may be in the pool.
        left_out: training images whose labels are not used; they join.
        others: bytes of the images that memory must hold besides.

    Returns:
        The pool, possibly empty, and the frames held out of it.

    Raises:
        ValueError: a folder holds no frames, or those to be in memory do not fit.
    """
    size = (config.height, config.width)
    forbidden = forbidden_stems(config, validation)
    known = frozenset(labelled)
    files = _files(config, left_out, forbidden, known)
    table, held = _choose(config, files, forbidden, known)
    pool = FramePool(table, *size, window=config.window, max_damaged=config.max_damaged)
    held_out = replace(pool, table=held).in_memory()
    pool_bytes, held_bytes = (image_bytes(config, len(p)) for p in (pool, held_out))
    if keeps_files(config.backing, pool_bytes, held_bytes + others):
        return pool, held_out
    return pool.in_memory(), held_out


def keeps_files(backing: str, pool_bytes: int, other_bytes: int) -> bool:
    """Decide whether a pool stays in files.

    Args:
        backing: "memory", "files" or "auto".
        pool_bytes: what its images would take.
        other_bytes: what is in memory anyway.

    Raises:
        ValueError: what must be in memory does not fit.
    """
    free = available_memory()
    room = float("inf") if free is None else _MEMORY_SHARE * free - other_bytes
    if backing == "auto":
        backing = "files" if pool_bytes > min(room, _LARGEST_IN_MEMORY) else "memory"
    needed = 0 if backing == "files" else pool_bytes
    if needed > room:
        raise ValueError(
            f"the images take {(needed + other_bytes) / 2**30:.1f} GiB, more than {_MEMORY_SHARE:.0%} of the "
            f"{(free or 0) / 2**30:.1f} GiB that are free; {'set data.backing=files, ' if needed else ''}"
            "lower data.labelled, data.validation or the size"
            + (", or data.unlabelled" if needed else "")
        )
    return backing == "files"


def image_bytes(config: PoolConfig, count: int, *, masks: bool = False) -> int:
    """Return the bytes of that many images at the training's size, with their masks or without."""
    return count * (4 if masks else 3) * config.height * config.width


def _files(
    config: PoolConfig, left_out: Sequence[Path], exclude: frozenset[str], known: frozenset[str]
) -> list[Path]:
    """Return the image files in random order."""
    folders = [folder for folder in config.folders if not holds_shards(folder)]
    # BDD100K's 10k training images overlap the validation set of its 100k.
    found = [path for path in left_out if not is_excluded(path, exclude)]
    if folders:
        listed = list_frames(folders, exclude=exclude)
        found += [path for path in listed if stem_of(path.name) not in known]
    # Absolute: a training may be taken up again from another working folder.
    found = list(dict.fromkeys(path.absolute() for path in found))
    order = np.random.default_rng(config.seed + 1).permutation(len(found))
    return [found[i] for i in order]


def _choose(
    config: PoolConfig, files: Sequence[Path], exclude: frozenset[str], known: frozenset[str]
) -> tuple[FrameTable, FrameTable]:
    """Return the frames of the pool and those held out."""
    folders = [
        open_shards(folder if "://" in folder else str(Path(folder).absolute()), exclude=exclude)
        for folder in config.folders
        if holds_shards(folder)
    ]
    if not folders:
        rest = files[config.held_out :][: config.unlabelled]
        return FrameTable([FileFrames(rest)]), FrameTable([FileFrames(files[: config.held_out])])
    sources: list[FileFrames | ShardFrames] = [FileFrames(files), *map(ShardFrames, folders)]
    starts = np.cumsum([len(files), *(folder.frames for folder in folders)])
    dropped = [
        int(start) + place
        for start, folder in zip(starts, folders, strict=False)
        for place in excluded_frames(folder, exclude | known)
    ]
    return choose_frames(
        sources,
        dropped,
        held_out=config.held_out,
        limit=config.unlabelled,
        seed=config.seed + 1,
    )


def write_frames(folder: Path, pool: FramePool, config: PoolConfig) -> None:
    """Write down which frames a pool has: shards that are added later change no experiment."""
    about: dict[str, Any] = {
        "height": pool.height,
        "width": pool.width,
        "window": pool.window,
        "workers": config.workers,
        "max_damaged": config.max_damaged,
    }
    write_json(folder / _FILE, about | pool.to_dict())


def read_frames(folder: Path, workers: int) -> FramePool | None:
    """Return the pool that `write_frames` wrote; None where the frames are in memory.

    Args:
        folder: of the experiment.
        workers: processes that decode, where the config sets none.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    about: dict[str, Any] = read_json(path)
    chosen = about["workers"]
    return FramePool.from_dict(
        about,
        height=about["height"],
        width=about["width"],
        window=about["window"],
        workers=workers if chosen is None else chosen,
        max_damaged=about["max_damaged"],
    )
