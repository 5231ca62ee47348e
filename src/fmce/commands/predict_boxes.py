"""`fmce predict` for detection: the boxes of a folder of images as BDD100K's official JSON, scored where labelled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fmce.commands.show import percent, print_table
from fmce.data.detection_labels import Classes, RawLabels
from fmce.data.image_files import DAMAGE_ERRORS, ImageArray, ReadFailures, read_rgb, stem_of
from fmce.data.scalabel import BDD100K_BOX_CLASSES, BDD100K_NAMES, read_scalabel, to_scalabel
from fmce.data.views import Views
from fmce.engine.files import write_json
from fmce.engine.progress import Progress
from fmce.engine.runtime import Runtime
from fmce.metrics.detection import detection_scores
from fmce.models.detection import detections
from fmce.tasks.detect import DetectTask

Found = dict[str, Tensor]


def predict_boxes(
    task: DetectTask,
    model: nn.Module,
    paths: Sequence[Path],
    out: Path,
    *,
    size: tuple[int, int],
    views: Views,
    labels: Path | None,
    runtime: Runtime,
    quiet: bool,
) -> dict[str, Any]:
    """Write `out/predictions_official.json`, boxes in pixels of each image's own size.

    Args:
        task: names the classes.
        model: in eval mode, on the device.
        paths: images.
        out: folder to write.
        size: height and width that training images were brought to.
        views: normalisation.
        labels: Scalabel JSON with the truth, or None.
        runtime: device and precision.
        quiet: print nothing.

    Returns:
        Counts, unreadable files, and scores or None.
    """
    failures = ReadFailures(len(paths))
    names, found = [], []
    with Progress("predicting", len(paths), quiet=quiet) as progress, torch.inference_mode():
        for number, path in enumerate(paths):
            try:
                image = read_rgb(path)
            except DAMAGE_ERRORS as error:
                failures.failed(number, error, lambda i: str(paths[i]))
                continue
            failures.succeeded()
            with runtime.autocast():
                found.append(boxes_of_image(task, model, image, size, views))
            names.append(path.name)
            progress.advance(path.stem)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "predictions_official.json", to_scalabel(names, found, task.class_names))
    scores = None
    if labels is not None:
        scores = score_boxes(names, found, read_scalabel(labels), task.class_names)
    if not quiet:
        _print(out, len(names), scores)
    unreadable = [str(paths[i]) for i in failures.failed_items]
    return {"images": len(names), "unreadable": unreadable, "scores": scores}


def boxes_of_image(
    task: DetectTask, model: nn.Module, image: ImageArray, size: tuple[int, int], views: Views
) -> Found:
    """Return the boxes of one whole image, in its own pixels, at the scale of training.

    Args:
        task: checks the outputs.
        model: in eval mode.
        image: uint8 (H,W,3), any size.
        size: height and width that training images were brought to.
        views: normalisation.

    Returns:
        "boxes" (n,4), "scores" and "labels" (n,) on the CPU.
    """
    height, width = image.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    wide, high = round(width * scale), round(height * scale)
    scaled = Image.fromarray(image).resize((wide, high), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(scaled)).permute(2, 0, 1)[None]
    normalised, _ = views(pixels.to(next(model.parameters()).device))
    (found,) = detections(task.outputs(model, normalised), (high, wide))
    back = torch.tensor([width / wide, height / high] * 2)
    values = {name: value.cpu() for name, value in found.items()}
    return values | {"boxes": values["boxes"] * back}


def score_boxes(
    names: Sequence[str], found: Sequence[Found], labels: RawLabels, class_names: Sequence[str]
) -> dict[str, Any]:
    """Score predictions against a Scalabel file; an image that it does not name has no objects.

    Args:
        names: file names of the images.
        found: predictions.
        labels: by stem.
        class_names: of the ids; BDD100K's ten bring its other names along.
    """
    official = tuple(class_names) == BDD100K_BOX_CLASSES
    classes = BDD100K_NAMES if official else Classes(tuple(class_names))
    truth = [classes.to_boxes(labels.get(stem_of(name)) or ()) for name in names]
    wanted = [
        {field: torch.from_numpy(value) for field, value in image._asdict().items()}
        for image in truth
    ]
    return detection_scores(wanted, found, len(class_names)).to_dict(class_names)


def _print(out: Path, count: int, scores: dict[str, Any] | None) -> None:
    if scores is not None:
        rows = [(name, percent(value)) for name, value in scores["ap_by_class"].items()]
        print_table(f"AP {percent(scores['ap'])}", ("class", "AP"), rows)
    print(f"boxes of {count} images written to {out / 'predictions_official.json'}")
