"""What the images of every function-matching experiment share: pools, leak rules, random choices, statistics."""

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
    """Return the stems that must not be in the pool.

    Args:
        config: Names stems to leave out, and the data set whose leak rule holds.
        validation: Stems of the validation images.
    """
    forbidden = set(validation)
    if config.exclude is not None:
        forbidden |= read_stems(config.exclude)
    if config.name == "bdd100k":
        forbidden |= bdd100k_excluded_stems(required_root(config))
    return frozenset(forbidden)


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
    mean, std = channel_statistics(labelled.images)
    return DistillationData(
        labelled, unlabelled, held_out, validation, tuple(class_names), mean, std
    )


def required_root(config: DistillationDataConfig) -> Path:
    """Return the data set's folder.

    Raises:
        ValueError: If the config names none.
    """
    if config.root is None:
        raise ValueError(
            f"data.root is not set; give the folder of {config.name}: --set data.root=FOLDER"
        )
    return Path(config.root)
