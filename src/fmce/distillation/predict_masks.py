"""Class maps of complete images, and their scores against true masks by BDD100K's rules."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmce.data.augmentation import Augmentation
from fmce.data.image_files import list_images
from fmce.data.image_reader import ImageArray, read_ids
from fmce.data.segmentation import MASK_SUFFIXES
from fmce.distillation.inputs import complete_image
from fmce.metrics.segmentation import confusion, segmentation_scores
from fmce.tasks.distillation import SegmentationTask


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
    if logits.shape[2:] != image.shape[:2]:
        logits = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)
    return logits.argmax(1)[0].to(torch.uint8).cpu()


def mask_key(path: Path, root: Path) -> str:
    """Return what an image and its masks have in common: the path below `root` without suffix."""
    return path.relative_to(root).with_suffix("").as_posix().removesuffix("_train_id")


def score_masks(
    preds: Path,
    masks: Path,
    class_names: Sequence[str],
    *,
    id_map: Mapping[int, int] | None = None,
    left_out: Collection[str] = (),
) -> dict[str, Any]:
    """Score a folder of predicted masks of train ids against the true ones, by BDD100K's rules.

    True masks may have `_train_id` behind the stem; 255 is ignored. `id_map` maps their ids to train ids or 255,
    where those differ. `left_out` are keys of images without a prediction because they cannot be read.

    Raises:
        ValueError: If names do not match, or a mask holds other ids or has another size.
    """
    classes = len(class_names)
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    truths = {mask_key(path, masks): path for path in list_images(masks, MASK_SUFFIXES)}
    truths = {key: path for key, path in truths.items() if key not in left_out}
    predicted = {mask_key(path, preds): path for path in list_images(preds, (".png",))}
    missing = sorted(truths.keys() - predicted.keys())
    if missing or not truths:
        raise ValueError(
            f"{len(missing)} of {len(truths)} masks in {masks} have no prediction in {preds}: "
            f"{', '.join(missing[:5])}"
        )
    for key, path in truths.items():
        pred, ids = (torch.from_numpy(read_ids(file)) for file in (predicted[key], path))
        truth = ids.clone()
        for there, here in (id_map or {}).items():
            truth[ids == there] = here
        try:
            counts += confusion(pred, truth, classes)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return segmentation_scores(counts).to_dict(class_names)
