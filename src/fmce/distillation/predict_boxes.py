"""Boxes in complete images, and their scores against true boxes in BDD100K's official form."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmce.data.augmentation import Augmentation
from fmce.data.detection.boxes import ImageBoxes
from fmce.data.detection.files import join_labels
from fmce.data.detection.labels import Classes, by_stem
from fmce.data.detection.scalabel import BDD100K_BOX_CLASSES, BDD100K_NAMES, read_scalabel
from fmce.data.image_files import first_names, stem_of
from fmce.data.image_reader import ImageArray
from fmce.distillation.inputs import complete_image
from fmce.metrics.detection import detection_scores
from fmce.models.detection import detections
from fmce.tasks.detection import DetectionTask

ImageDetections = dict[str, Tensor]
"""What was found in one image: "boxes" (n,4) in its pixels, "scores" (n,) and "labels" (n,), on the CPU."""


def predict_boxes(
    task: DetectionTask,
    model: nn.Module,
    image: ImageArray,
    size: tuple[int, int],
    normalise: Augmentation,
) -> ImageDetections:
    """Return the boxes of one image uint8 (H,W,3), in its own pixels; other arguments as in `complete_image`."""
    x = complete_image(image, size, normalise, model)  # (1,3,h,w)
    height, width = x.shape[2:]
    (found,) = detections(task.outputs(model, x), (height, width))
    back = torch.tensor([image.shape[1] / width, image.shape[0] / height] * 2)
    values = {name: value.cpu() for name, value in found.items()}
    return values | {"boxes": values["boxes"] * back}


def read_truth(
    labels: Path, images: Sequence[Path], class_names: Sequence[str]
) -> dict[str, ImageBoxes]:
    """Read the true boxes by stem that a Scalabel JSON has; BDD100K's ten classes bring its other names along.

    Raises:
        ValueError: If the file cannot be read, has unknown classes, names none of the images, or boxes or sizes do
            not fit them.
    """
    official = tuple(class_names) == BDD100K_BOX_CLASSES
    classes = BDD100K_NAMES if official else Classes(tuple(class_names))
    raw = read_scalabel(labels)
    classes.refuse_unknown(raw, str(labels))
    truth = {
        stem: classes.to_boxes(image.boxes)
        for stem, image in raw.items()
        if image.boxes is not None
    }
    stems = by_stem(((str(path), path) for path in images), "images to score")
    if not truth.keys() & stems.keys():
        raise ValueError(
            f"expected labels of the images in {labels}, got none of the {len(stems)}: it names "
            f"{first_names(list(truth), 3) or 'no image with labels'}, the images are {first_names(list(stems), 3)}"
        )
    named = {stem: raw[stem] for stem in stems if stem in raw}
    join_labels(images, named, classes, name=str(labels), unannotated="skip").check()
    return truth


def score_boxes(
    names: Sequence[str],
    found: Sequence[ImageDetections],
    truth: Mapping[str, ImageBoxes],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Score the predictions of images by file name against true boxes by stem; without any, an image has no objects."""
    nothing = Classes(()).to_boxes(())
    boxes = [truth.get(stem_of(name), nothing)._asdict() for name in names]
    wanted = [{field: torch.from_numpy(v) for field, v in one.items()} for one in boxes]
    return detection_scores(wanted, found, len(class_names)).to_dict(class_names)
