"""The images of an experiment whose labels are in files: which are labelled, which join the unlabelled ones."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from fmce.config.distillation import DistillationDataConfig
from fmce.data.detection.files import DetectionFiles
from fmce.data.pools import ImagePool
from fmce.data.segmentation import SegmentationFiles
from fmce.distillation.data.pools import (
    DistillationData,
    image_bytes,
    sample_indices,
    with_statistics,
)
from fmce.distillation.data.unlabelled import unlabelled_pools

Files = TypeVar("Files", DetectionFiles, SegmentationFiles)


def data_from_files(
    config: DistillationDataConfig,
    train: Files,
    validation: Files,
    read: Callable[[Files, tuple[int, int]], ImagePool],
    *,
    masks: bool = False,
    check: Callable[[Files], None] = lambda _files: None,
) -> DistillationData:
    """Draw the labelled images, find the unlabelled ones, and read what memory holds.

    Args:
        config: How many images, and the seed that draws them.
        train: Labelled training images; those not drawn join the pool without their labels.
        validation: Labelled validation images, with the classes of `train`.
        read: Files and (height, width) → their images and targets of that size.
        masks: Whether the targets are masks, which take a byte per pixel.
        check: Refuses labelled or validation images that nothing can be learned from.
    """
    train, validation = (one.tolerating(config.max_damaged) for one in (train, validation))
    for files in (train, validation):
        files.check()  # a mask of other ids, say, must not pass for a damaged file
    size = (config.height, config.width)
    order = np.random.default_rng(config.seed).permutation(len(train))
    count = min(config.labelled or len(train), len(train))
    labelled = train.select(np.sort(order[:count]).tolist())
    few = validation.select(sample_indices(len(validation), config.validation, config.seed))
    for files in (labelled, few):
        check(files)
    left_out = [train.image_paths[i] for i in np.sort(order[count:])]
    others = image_bytes(config, len(labelled) + len(few), masks=masks)
    stems = (validation.stems, labelled.stems)
    pool, held_out = unlabelled_pools(config, *stems, left_out, others=others)
    return with_statistics(read(labelled, size), pool, held_out, read(few, size), train.class_names)
