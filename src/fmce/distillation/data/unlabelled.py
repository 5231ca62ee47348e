"""The unlabelled frames of a function-matching experiment: in memory where they fit, else left in files."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fmce.config.distillation import DistillationDataConfig
from fmce.data.frames.folders import is_excluded, list_frames
from fmce.data.frames.pool import FramePool
from fmce.data.frames.selection import choose_frames
from fmce.data.frames.shards import excluded_frames, holds_shards, open_shards
from fmce.data.frames.table import FileFrames, FrameTable, ShardFrames
from fmce.data.image_files import stem_of
from fmce.data.pools import ImagePool
from fmce.distillation.data.pools import forbidden_stems, image_bytes, stays_on_disk
from fmce.files import read_json_or_none, write_json

_FILE = "unlabelled.json"
_FIELDS = ("height", "width", "shuffle_buffer", "max_damaged")


def unlabelled_pools(
    config: DistillationDataConfig,
    validation: Iterable[str],
    labelled: Iterable[str],
    left_out: Sequence[Path],
    *,
    others: int,
) -> tuple[ImagePool | FramePool, ImagePool]:
    """Find the frames of `config.folders`: folders of images, folders or addresses of shards.

    Args:
        config: Which frames, how many, and whether they are read into memory.
        validation: Stems of the validation images, which must not be in the pool.
        labelled: Stems of the labelled images, which are trained on anyway; other frames of their
            videos may be in the pool.
        left_out: Training images whose labels are not used; they join the pool.
        others: Bytes of the images that memory must hold besides.

    Returns:
        The pool, possibly empty, and the frames held out of it.
    """
    size = (config.height, config.width)
    forbidden, known = forbidden_stems(config, validation), frozenset(labelled)
    files = _files(config, left_out, forbidden, known)
    table, held = _choose(config, files, forbidden, known)
    limits: dict[str, Any] = {n: getattr(config, n) for n in ("shuffle_buffer", "max_damaged")}
    pool = FramePool(table, *size, **limits)
    held_out = replace(pool, table=held).in_memory()
    pool_bytes, held_bytes = (image_bytes(config, len(p)) for p in (pool, held_out))
    if stays_on_disk(config.storage, pool_bytes, held_bytes + others):
        return pool, held_out
    return pool.in_memory(), held_out


def _files(
    config: DistillationDataConfig,
    left_out: Sequence[Path],
    exclude: frozenset[str],
    known: frozenset[str],
) -> list[Path]:
    """Return the image files in random order."""
    folders = [folder for folder in config.folders if not holds_shards(folder)]
    # BDD100K's 10k training images overlap the validation set of its 100k.
    found = [path for path in left_out if not is_excluded(path, exclude)]
    if folders:
        listed = list_frames(folders, exclude=exclude)
        found += [path for path in listed if stem_of(path.name) not in known]
    # Absolute: a training may be resumed from another working folder.
    found = list(dict.fromkeys(path.absolute() for path in found))
    order = np.random.default_rng(config.seed + 1).permutation(len(found))
    return [found[i] for i in order]


def _choose(
    config: DistillationDataConfig,
    files: Sequence[Path],
    exclude: frozenset[str],
    known: frozenset[str],
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
    limits: dict[str, Any] = {"held_out": config.held_out, "limit": config.unlabelled}
    return choose_frames(sources, dropped, **limits, seed=config.seed + 1)


def write_frames(folder: Path, pool: FramePool, config: DistillationDataConfig) -> None:
    """Record which frames a pool has: shards that are added later change no experiment."""
    fields = {name: getattr(pool, name) for name in _FIELDS}
    write_json(folder / _FILE, fields | {"workers": config.workers} | pool.to_dict())


def read_frames(folder: Path, workers: int) -> FramePool | None:
    """Return the pool that `write_frames` recorded, None where it is in memory; `workers` as the config or as given."""
    found: dict[str, Any] | None = read_json_or_none(folder / _FILE)
    if found is None:
        return None
    fields = {name: found[name] for name in _FIELDS}
    chosen = workers if found["workers"] is None else found["workers"]
    return FramePool.from_dict(found, workers=chosen, **fields)
