"""What the images of every function-matching experiment share: leak rules, random choices, statistics."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fmce.config.distillation import DistillationDataConfig
from fmce.data.frames.folders import bdd100k_excluded_stems
from fmce.data.frames.pool import FramePool
from fmce.data.image_files import read_stems
from fmce.data.pools import ImagePool
from fmce.data.transforms import channel_statistics

POOLS = ("labelled", "unlabelled", "held_out", "validation")


@dataclass(frozen=True)
class DistillationData:
    """What a function-matching experiment sees.

    labelled: for every arm and the teacher. unlabelled: for the function_matching arm besides, may be empty, and
    may lie in files.
    held_out: unlabelled images nobody trains on. validation: where all are evaluated.
    """

    labelled: ImagePool
    unlabelled: "ImagePool | FramePool"
    held_out: ImagePool
    validation: ImagePool
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def forbidden_stems(config: DistillationDataConfig, validation: Iterable[str]) -> frozenset[str]:
    """Return the stems that must not be in the pool.

    Args:
        config: names stems to leave out, and the data set whose rule is kept.
        validation: stems of the validation images.
    """
    forbidden = set(validation)
    if config.exclude is not None:
        forbidden |= read_stems(config.exclude)
    if config.name == "bdd100k":
        forbidden |= bdd100k_excluded_stems(required_root(config))
    return frozenset(forbidden)


def sample_indices(count: int, most: int | None, seed: int) -> list[int]:
    """Return up to `most` positions of `count`, drawn at random (sets may be sorted by class), in order."""
    order = np.random.default_rng(seed).permutation(count)[:most]
    return [int(i) for i in np.sort(order)]


def with_statistics(
    labelled: ImagePool,
    unlabelled: ImagePool | FramePool,
    held_out: ImagePool,
    validation: ImagePool,
    class_names: Sequence[str],
) -> DistillationData:
    """Put pools together, with the channel statistics of the labelled images."""
    mean, std = channel_statistics(labelled.images)
    return DistillationData(
        labelled, unlabelled, held_out, validation, tuple(class_names), mean, std
    )


def required_root(config: DistillationDataConfig) -> Path:
    """Return where the data set lies, or say how to name it."""
    if config.root is None:
        raise ValueError(
            f"data.root is not set; say where {config.name} lies: --set data.root=FOLDER"
        )
    return Path(config.root)
