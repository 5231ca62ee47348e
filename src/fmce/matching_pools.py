"""What the images of every function-matching experiment share: leak rules, random choices, statistics."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fmce.data.frame_pool import FramePool
from fmce.data.frames import bdd100k_excluded_stems
from fmce.data.image_files import read_stems
from fmce.data.pools import ImagePool, MatchingData
from fmce.data.transforms import channel_statistics
from fmce.matching_config import PoolConfig


def forbidden_stems(config: PoolConfig, validation: Iterable[str]) -> frozenset[str]:
    """Return the stems that must not be in the pool.

    Args:
        config: names stems to leave out, and the data set whose rule is kept.
        validation: stems of the validation images.
    """
    forbidden = set(validation)
    if config.exclude is not None:
        forbidden |= read_stems(config.exclude)
    if config.name == "bdd100k":
        forbidden |= bdd100k_excluded_stems(data_root(config))
    return frozenset(forbidden)


def some_positions(count: int, most: int | None, seed: int) -> list[int]:
    """Return up to `most` positions of `count`, drawn at random (sets may be sorted by class), in order."""
    order = np.random.default_rng(seed).permutation(count)[:most]
    return [int(i) for i in np.sort(order)]


def with_statistics(
    labelled: ImagePool,
    unlabelled: ImagePool | FramePool,
    held_out: ImagePool,
    validation: ImagePool,
    class_names: Sequence[str],
) -> MatchingData:
    """Put pools together, with the channel statistics of the labelled images."""
    mean, std = channel_statistics(labelled.images)
    return MatchingData(labelled, unlabelled, held_out, validation, tuple(class_names), mean, std)


def data_root(config: PoolConfig) -> Path:
    """Return where the data set lies, or say how to name it."""
    if config.root is None:
        raise ValueError(
            f"data.root is not set; say where {config.name} lies: --set data.root=FOLDER"
        )
    return Path(config.root)
