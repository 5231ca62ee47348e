"""The images of an experiment whose labels are in files: which are labelled, which join the unlabelled ones."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from fmce.config.distillation import DistillationDataConfig
from fmce.console.log import logger
from fmce.data.detection.files import DetectionFiles
from fmce.data.image_files import first_names
from fmce.data.pools import ImagePool
from fmce.data.segmentation import SegmentationFiles
from fmce.distillation.data.pools import (
    DistillationData,
    image_bytes,
    sample_indices,
    with_statistics,
)
from fmce.distillation.data.unlabelled import unlabelled_pools
from fmce.losses.distillation import IGNORE_INDEX

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

    Raises:
        ValueError: If the images do not fit in memory, labelled masks hold less than two classes, or as in `check` and
            `unlabelled_pools`.
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
    data = with_statistics(read(labelled, size), pool, held_out, read(few, size), train.class_names)
    _report_absent_classes(config, data, masks=masks)
    return data


def _report_absent_classes(
    config: DistillationDataConfig, data: DistillationData, *, masks: bool
) -> None:
    """Warn of classes without a pixel or a box, with what was found instead.

    Raises:
        ValueError: If the labelled masks hold less than two classes, so that there is nothing to tell apart.
    """
    names, what = data.class_names, "pixel" if masks else "box"
    for which in ("labelled", "validation"):
        targets = getattr(data, which).targets
        if masks:
            pixels = (torch.bincount(mask.flatten(), minlength=256) for mask in targets)
            counts = sum(pixels, torch.zeros(256, dtype=torch.int64))
            ignored, counts = int(counts[IGNORE_INDEX]), counts[: len(names)]
        else:
            kinds = targets[..., 4][targets[..., 5] == 0].long()
            ignored = int(((targets[..., 4] >= 0) & (targets[..., 5] > 0)).sum())
            counts = torch.bincount(kinds[kinds >= 0], minlength=len(names))
        absent = [name for name, count in zip(names, counts, strict=True) if not count]
        if not absent:
            continue
        total = max(1, ignored + int(counts.sum()))
        shares = {
            f"{i} ({n})": int(c) / total for i, (n, c) in enumerate(zip(names, counts, strict=True))
        }
        shares |= {f"{IGNORE_INDEX} (ignored)" if masks else "ignored": ignored / total}
        found = ", ".join(f"{value} {share:.1%}" for value, share in shares.items() if share)
        message = (
            f"{config.root}: no {what} of {first_names(absent)} in the {len(targets)} {which} images; found: "
            f"{found or 'nothing'}"
        )
        if masks and which == "labelled" and len(names) > 1 and len(absent) >= len(names) - 1:
            raise ValueError(
                f"{message}; masks need the ids 0 … {len(names) - 1} of their classes, {IGNORE_INDEX} is ignored"
            )
        logger.warning("%s", message)
