"""Class maps of complete images, and their scores against true masks by BDD100K's rules."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmce.console.log import logger
from fmce.data.augmentation import Augmentation
from fmce.data.image_files import first_names, list_images
from fmce.data.image_reader import (
    DAMAGE_ERRORS,
    ImageArray,
    WrongMaskError,
    image_size,
    read_ids,
)
from fmce.data.segmentation import MASK_SUFFIXES, SegmentationFiles
from fmce.distillation.inputs import complete_image
from fmce.metrics.segmentation import confusion, segmentation_scores
from fmce.tasks.distillation import SegmentationTask

# Logits of an image's own size that are held at once: half a gigabyte.
_MOST_VALUES = 2**27


def predict_mask(
    task: SegmentationTask,
    model: nn.Module,
    image: ImageArray,
    size: tuple[int, int],
    normalise: Augmentation,
) -> Tensor:
    """Return the class of every pixel, uint8 (H,W) on the CPU, of an image uint8 (H,W,3).

    Other arguments as in `complete_image`; the model is in eval mode.
    """
    logits = task.outputs(model, complete_image(image, size, normalise, model)).float()  # (1,C,h,w)
    height, width = image.shape[:2]
    if logits.shape[2:] == (height, width):
        return logits.argmax(1)[0].to(torch.uint8).cpu()
    rows = height
    if height * width * logits.shape[1] > _MOST_VALUES:
        rows = max(1, _MOST_VALUES // (4 * width * logits.shape[1]))
    parts = [
        _enlarged(logits, range(first, min(first + rows, height)), height, width).argmax(1)[0]
        for first in range(0, height, rows)
    ]
    return torch.cat([part.to(torch.uint8).cpu() for part in parts])


def _enlarged(logits: Tensor, rows: range, height: int, width: int) -> Tensor:
    """Return some rows of logits (1,C,h,w) that are brought to (height, width) bilinearly."""
    if len(rows) < height:  # by hand, since interpolation takes no part of its result
        place = (torch.tensor(rows, device=logits.device) + 0.5) * logits.shape[2] / height - 0.5
        place = place.clamp(0, logits.shape[2] - 1)
        above, share = place.long(), (place - place.floor())[:, None]
        below = (above + 1).clamp(max=logits.shape[2] - 1)
        logits = torch.lerp(logits[:, :, above], logits[:, :, below], share)  # (1,C,rows,w)
    return F.interpolate(logits, (len(rows), width), mode="bilinear", align_corners=False)


def mask_key(path: Path, root: Path) -> str:
    """Return what an image and its masks have in common: the path below `root` without suffix."""
    return path.relative_to(root).with_suffix("").as_posix().removesuffix("_train_id")


def true_masks(
    masks: Path,
    paths: Sequence[Path],
    root: Path,
    class_names: Sequence[str],
    id_map: Mapping[int, int] | None = None,
) -> SegmentationFiles:
    """Find the true masks of images, and read each once, so that nothing is predicted in vain.

    Args:
        masks: Folder of masks, named and nested as the images are, possibly with `_train_id` behind the stem; 255 is
            ignored.
        paths: The images.
        root: Their folder.
        class_names: Names of the ids 0 … C − 1.
        id_map: Ids in the masks to train ids or 255, where they differ.

    Raises:
        ValueError: If a mask has no image, holds other ids, has another size than its image, or cannot be read.
    """
    images = {mask_key(path, root): path for path in paths}
    found: dict[str, Path] = {}
    for path in list_images(masks, MASK_SUFFIXES):
        other = found.setdefault(mask_key(path, masks), path)
        if other != path:
            raise ValueError(f"expected one mask per image, got {other} and {path}; take one away")
    alone = sorted(found.keys() - images.keys())
    if alone or not found:
        raise ValueError(
            f"{len(alone)} of {len(found)} masks in {masks} have no image in {root}: "
            f"{first_names(alone) or 'none is there'}; give the masks of these images"
        )
    if len(found) < len(images):
        logger.info(
            "%d of %d images have no mask in %s", len(images) - len(found), len(images), masks
        )
    files = SegmentationFiles(
        name=str(masks),
        image_paths=[images[key] for key in found],
        mask_paths=[*found.values()],
        class_names=class_names,
        id_map=id_map or {},
    )
    problems = []
    for index, (image, mask) in enumerate(zip(files.image_paths, files.mask_paths, strict=True)):
        try:
            width, height = image_size(image)
        except DAMAGE_ERRORS:
            continue  # left out when it is read
        try:
            files.read_mask(index, (height, width))
        except WrongMaskError as error:
            problems.append(str(error))
        except DAMAGE_ERRORS as error:
            problems.append(f"{mask} cannot be read ({error})")
    if problems:
        raise ValueError(
            f"{len(problems)} of {len(files)} masks are wrong: {first_names(problems, separator='; ')}"
        )
    return files


def score_masks(truth: SegmentationFiles, predicted: Mapping[Path, Path]) -> dict[str, Any]:
    """Score predicted masks against true ones, by BDD100K's rules.

    Args:
        truth: From `true_masks`.
        predicted: PNG of train ids by image; images that could not be read have none.
    """
    classes = len(truth.class_names)
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    for index, image in enumerate(truth.image_paths):
        if image in predicted:
            pred, wanted = read_ids(predicted[image]), truth.read_mask(index, None)
            counts += confusion(torch.from_numpy(pred), torch.from_numpy(wanted), classes)
    return segmentation_scores(counts).to_dict(truth.class_names)
