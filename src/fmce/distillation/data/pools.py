"""What the images of every experiment share: pools, leak rules, random choices, statistics, room in memory."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fmce.config.distillation import DistillationDataConfig
from fmce.console.log import logger
from fmce.data.frames.folders import bdd100k_excluded_stems, excluding_names
from fmce.data.frames.pool import FramePool
from fmce.data.frames.shards import holds_shards, open_shards
from fmce.data.image_files import first_names, read_stems, walk_files
from fmce.data.memory import available_memory
from fmce.data.pools import ImagePool
from fmce.data.transforms import channel_statistics

# Larger pools stay in files: reading everything before the first step would take too long.
_LARGEST_IN_MEMORY = 4 * 2**30
# Largest share of free memory that the pools may take together.
_MEMORY_SHARE = 0.6
POOLS = ("labelled", "unlabelled", "held_out", "validation")


@dataclass(frozen=True)
class DistillationData:
    """The images of a function-matching experiment.

    Attributes:
        labelled: For the teacher and every arm.
        unlabelled: For the function_matching arm in addition; may be empty, and may be in files.
        held_out: Unlabelled images that nobody trains on.
        validation: Labelled images on which all are evaluated.
        class_names: Names of the class ids 0 … C − 1.
        mean: Three channel means that images are normalised with, on the 0–1 scale.
        std: Three standard deviations, likewise.
    """

    labelled: ImagePool
    unlabelled: ImagePool | FramePool
    held_out: ImagePool
    validation: ImagePool
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def forbidden_stems(config: DistillationDataConfig, validation: Iterable[str]) -> frozenset[str]:
    """Return the stems that must not be in the pool: the validation images', those excluded, BDD100K's test sets."""
    forbidden = set(validation)
    if config.exclude is not None:
        forbidden |= read_stems(config.exclude)
    if config.name == "bdd100k":
        forbidden |= bdd100k_excluded_stems(required_root(config))
    return frozenset(forbidden)


def warn_of_unmatched_stems(config: DistillationDataConfig) -> None:
    """Warn of stems to exclude that name no image of the experiment: a list of others excludes nothing."""
    if config.exclude is None:
        return
    listed = read_stems(config.exclude)
    unmatched: set[str | None] = set(listed)
    for folder in (config.root, *config.folders):
        if folder is not None and holds_shards(folder):
            for shard in open_shards(folder).shards:
                keys = {
                    s
                    for s in unmatched
                    if s and f"{s.replace('.', '_')}-".startswith(f"{shard.prefix}-")
                }
                unmatched -= keys | excluding_names(Path(shard.prefix))
        elif folder is not None:
            for path in walk_files(Path(folder)):
                unmatched -= excluding_names(path)
    if unmatched:
        names = first_names(sorted(map(str, unmatched)))
        logger.warning(
            "%s: %d of %d stems match no image or video: %s",
            config.exclude,
            len(unmatched),
            len(listed),
            names,
        )


def sample_indices(count: int, most: int | None, seed: int) -> list[int]:
    """Return up to `most` of the positions 0 … `count` − 1, drawn at random (sets may be sorted by class), in order.

    >>> sample_indices(5, 3, seed=0)
    [2, 3, 4]
    """
    order = np.random.default_rng(seed).permutation(count)[:most]
    return [int(i) for i in np.sort(order)]


def with_statistics(
    labelled: ImagePool,
    unlabelled: ImagePool | FramePool,
    held_out: ImagePool,
    validation: ImagePool,
    class_names: Sequence[str],
) -> DistillationData:
    """Return the data of an experiment, normalised with the channel statistics of its labelled images."""
    statistics = channel_statistics(labelled.images)  # mean, std
    pools = (labelled, unlabelled, held_out, validation)
    return DistillationData(*pools, tuple(class_names), *statistics)


def required_root(config: DistillationDataConfig) -> Path:
    """Return the data set's folder, which the config must name."""
    if config.root is None:
        raise ValueError(f"data.root is not set: give {config.name}'s, --set data.root=FOLDER")
    return Path(config.root)


def stays_on_disk(storage: str, pool_bytes: int, other_bytes: int) -> bool:
    """Decide whether a pool stays in files, by `storage`: "memory", "files" or "auto".

    Raises:
        ValueError: If what must be in memory, `other_bytes` anyway, does not fit.
    """
    free = available_memory()
    room = float("inf") if free is None else _MEMORY_SHARE * free - other_bytes
    if storage == "auto":
        storage = "files" if pool_bytes > min(room, _LARGEST_IN_MEMORY) else "memory"
    needed = 0 if storage == "files" else pool_bytes
    if needed > room:
        raise ValueError(
            f"the images take {(needed + other_bytes) / 2**30:.1f} GiB, more than {_MEMORY_SHARE:.0%} of the "
            f"{(free or 0) / 2**30:.1f} GiB that are free; {'set data.storage=files, ' if needed else ''}"
            "lower data.labelled, data.validation or the size"
            + (", or data.unlabelled" if needed else "")
        )
    return storage == "files"


def image_bytes(config: DistillationDataConfig, count: int, *, masks: bool = False) -> int:
    """Return the bytes of `count` images at the training's size, with or without their masks."""
    return count * (4 if masks else 3) * config.height * config.width
