"""The images and boxes of a detection experiment: built-in scenes, or labelled files of any format."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fmce.config.distillation import DistillationDataConfig
from fmce.data.detection.boxes import ImageBoxes, pack_boxes, resize_and_center_crop_boxes
from fmce.data.detection.files import DetectionFiles, JoinOptions
from fmce.data.detection.formats import (
    coco_detection,
    kitti_detection,
    voc_detection,
)
from fmce.data.detection.scalabel import bdd100k_detection
from fmce.data.detection.yolo import yolo_detection
from fmce.data.image_reader import ImageArray
from fmce.data.pools import ImagePool, as_pool, resize_and_center_crop, stack_images
from fmce.data.road_scenes.canvas import SCENE_BOX_CLASSES
from fmce.data.road_scenes.scenes import SceneBatch
from fmce.distillation.data.files import data_from_files
from fmce.distillation.data.pools import DistillationData, required_root
from fmce.distillation.data.road_scenes import scene_data

# Objects of a scene with fewer visible pixels are ignored: nobody could name a pedestrian of a few pixels.
_LEAST_PIXELS = 16


def detection_data(config: DistillationDataConfig) -> DistillationData:
    """Read or render all images of a detection experiment; targets are packed boxes float32 (N,M,6).

    Raises:
        ValueError: If the data set is unknown or incomplete, boxes are wrong, or the images would not fit in memory.
    """
    if config.name == "scenes":
        data = scene_data(config, _with_boxes, SCENE_BOX_CLASSES)
    else:
        train = detection_files(config, "train")
        # Each of COCO's files numbers categories in its own way, and need not have all of the other's.
        unnamed = replace(config, class_names=()) if config.name == "coco" else config
        validation = detection_files(unnamed, "val")
        validation = validation.renumbered(train.class_names, drop=bool(config.class_names))
        check = DetectionFiles.require_boxes
        data = data_from_files(config, train, validation, _read, check=check)
    for name in ("labelled", "validation"):
        targets = getattr(data, name).targets
        if not ((targets[..., 4] >= 0) & (targets[..., 5] == 0)).any():
            raise ValueError(
                f"{config.name}: no box to find is left in {len(targets)} {name} images after resizing to "
                f"{config.height}×{config.width}; take more of them, or a larger data.height and data.width"
            )
    return data


def _with_boxes(scenes: SceneBatch) -> ImagePool:
    columns = zip(scenes.boxes, scenes.box_labels, scenes.box_pixels, strict=True)
    boxes = [ImageBoxes(b, k, np.asarray(n < _LEAST_PIXELS)) for b, k, n in columns]
    return ImagePool(as_pool(scenes.images).images, pack_boxes(boxes))


def detection_files(config: DistillationDataConfig, split: str) -> DetectionFiles:
    """Find the labelled images of a split, "train" or "val"."""
    if config.name not in ("bdd100k", "kitti", "coco", "yolo", "voc"):
        raise ValueError(
            f"unknown detection data {config.name!r}; choose from scenes, bdd100k, kitti, coco, yolo, voc"
        )
    root, names = required_root(config), config.class_names
    options: JoinOptions = {
        "unannotated": config.unannotated_images,
        "exclude": config.exclude or (),
    }
    if config.name in ("bdd100k", "kitti"):
        if names:
            raise ValueError(
                f"data.class_names is {', '.join(names)}, but {config.name} has its own classes; leave it out"
            )
        own = bdd100k_detection if config.name == "bdd100k" else kitti_detection
        return own(root, split, **options)
    if config.name == "coco":
        labels = root / "annotations" / f"instances_{split}.json"
        return coco_detection(root / split, labels, class_names=names, **options)
    if config.name == "voc":
        return voc_detection(root, split, class_names=names, **options)
    columns = config.label_columns
    return yolo_detection(root, split, class_names=names, columns=columns, **options)


def _read(files: DetectionFiles, size: tuple[int, int]) -> ImagePool:
    boxes: list[ImageBoxes] = []

    def images() -> Iterator[ImageArray]:
        for i in range(len(files)):
            item = files[i]
            height, width = item.image.shape[:2]
            boxes.append(resize_and_center_crop_boxes(item.boxes, (height, width), size))
            yield resize_and_center_crop(item.image, *size)

    return ImagePool(stack_images(images(), len(files)), pack_boxes(boxes), files.damaged)
