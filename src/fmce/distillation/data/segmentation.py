"""The images and masks of a segmentation experiment: built-in scenes, CamVid, BDD100K, or any two folders."""

from collections.abc import Iterator

import numpy as np
import torch

from fmce.config.distillation import DistillationDataConfig
from fmce.data.image_reader import ImageArray
from fmce.data.pools import (
    ImagePool,
    as_pool,
    resize_and_center_crop,
    stack_images,
)
from fmce.data.road_scenes.canvas import SCENE_CLASSES
from fmce.data.segmentation import (
    SegmentationFiles,
    bdd100k_segmentation,
    camvid,
    folder_pair,
)
from fmce.distillation.data.files import data_from_files
from fmce.distillation.data.pools import DistillationData, required_root
from fmce.distillation.data.road_scenes import scene_data


def segmentation_data(config: DistillationDataConfig) -> DistillationData:
    """Read or render all images of a segmentation experiment; targets are masks uint8 (N,H,W).

    Raises:
        ValueError: If the data set is unknown or incomplete, masks are wrong, or the images would not fit in memory.
    """
    if config.name == "scenes":
        return scene_data(config, lambda s: as_pool(s.images, s.masks), SCENE_CLASSES)
    train, validation = (segmentation_files(config, split) for split in ("train", "val"))
    return data_from_files(config, train, validation, _read, masks=True)


def segmentation_files(config: DistillationDataConfig, split: str) -> SegmentationFiles:
    """Find the labelled images of a split, "train" or "val"."""
    root, exclude = required_root(config), config.exclude or ()
    if config.name == "camvid":
        return camvid(root, split, exclude=exclude)
    if config.name == "bdd100k":
        return bdd100k_segmentation(root, split, exclude=exclude)
    if config.name == "folder":
        if not config.class_names:
            raise ValueError("data.class_names is empty; name the classes of the ids 0 … C − 1")
        images, masks = (root / kind / split for kind in ("images", "masks"))
        return folder_pair(images, masks, config.class_names, exclude=exclude)
    raise ValueError(
        f"unknown segmentation data {config.name!r}; choose from scenes, camvid, bdd100k, folder"
    )


def _read(files: SegmentationFiles, size: tuple[int, int]) -> ImagePool:
    masks = np.empty((len(files), *size), np.uint8)

    def images() -> Iterator[ImageArray]:
        for i in range(len(files)):
            item = files[i]
            masks[i] = resize_and_center_crop(item.mask, *size)
            yield resize_and_center_crop(item.image, *size)

    stacked = stack_images(images(), len(files))
    return ImagePool(stacked, torch.from_numpy(masks), files.damaged)
