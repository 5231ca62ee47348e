"""`fmce predict` for detection: the boxes of a folder of images as BDD100K's official JSON, scored where labelled."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fmce.console.progress import Progress
from fmce.console.tables import percent, print_table
from fmce.data.augmentation import Augmentation
from fmce.data.detection.boxes import ImageBoxes
from fmce.data.detection.labels import Classes, by_stem
from fmce.data.detection.scalabel import (
    BDD100K_BOX_CLASSES,
    BDD100K_NAMES,
    read_scalabel,
    to_scalabel,
)
from fmce.data.image_files import (
    DAMAGE_ERRORS,
    ImageArray,
    ReadFailures,
    first_names,
    read_rgb,
    stem_of,
)
from fmce.engine.runtime import Runtime
from fmce.files import write_json
from fmce.metrics.detection import detection_scores
from fmce.models.detection import detections
from fmce.tasks.detection import DetectionTask

Found = dict[str, Tensor]


def predict_boxes(
    task: DetectionTask,
    model: nn.Module,
    paths: Sequence[Path],
    out: Path,
    *,
    size: tuple[int, int],
    augmentation: Augmentation,
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
        augmentation: normalisation.
        labels: Scalabel JSON with the truth, or None.
        runtime: device and precision.
        quiet: print nothing.

    Returns:
        Counts, unreadable files, and scores or None.

    Raises:
        ValueError: the labels cannot be read or do not fit; no image was predicted then.
        UnreadableDataError: too many images cannot be read.
    """
    truth = None if labels is None else read_truth(labels, paths, task.class_names)
    failures = ReadFailures(instead="it is left out")
    names, found = [], []
    with Progress("predicting", len(paths)) as progress, torch.inference_mode():
        for number, path in enumerate(paths):
            try:
                image = read_rgb(path)
            except DAMAGE_ERRORS as error:
                failures.failed(number, error, lambda i: str(paths[i]))
                continue
            failures.succeeded()
            with runtime.autocast():
                found.append(boxes_of_image(task, model, image, size, augmentation))
            names.append(path.name)
            progress.advance(path.stem)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "predictions_official.json", to_scalabel(names, found, task.class_names))
    unreadable = [str(paths[i]) for i in failures.failed_items]
    result: dict[str, Any] = {"images": len(names), "unreadable": unreadable, "scores": None}
    if truth is not None:
        stems = {stem_of(path.name) for path in paths}
        result["images_without_labels"] = len(stems - truth.keys())
        result["labels_without_image"] = len(truth.keys() - stems)
        result["scores"] = score_boxes(names, found, truth, task.class_names)
    if not quiet:
        _print(out, result)
    return result


def boxes_of_image(
    task: DetectionTask,
    model: nn.Module,
    image: ImageArray,
    size: tuple[int, int],
    augmentation: Augmentation,
) -> Found:
    """Return the boxes of one whole image, in its own pixels, at the scale of training.

    Args:
        task: checks the outputs.
        model: in eval mode.
        image: uint8 (H,W,3), any size.
        size: height and width that training images were brought to.
        augmentation: normalisation.

    Returns:
        "boxes" (n,4), "scores" and "labels" (n,) on the CPU.
    """
    height, width = image.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    wide, high = round(width * scale), round(height * scale)
    scaled = Image.fromarray(image).resize((wide, high), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(scaled)).permute(2, 0, 1)[None]
    normalised, _ = augmentation(pixels.to(next(model.parameters()).device))
    (found,) = detections(task.outputs(model, normalised), (high, wide))
    back = torch.tensor([width / wide, height / high] * 2)
    values = {name: value.cpu() for name, value in found.items()}
    return values | {"boxes": values["boxes"] * back}


def read_truth(
    labels: Path, images: Sequence[Path], class_names: Sequence[str]
) -> dict[str, ImageBoxes]:
    """Read the true boxes of images.

    Args:
        labels: Scalabel JSON.
        images: files that will be predicted.
        class_names: of the ids; BDD100K's ten bring its other names along.

    Returns:
        Boxes by stem, of all images that the file names with labels.

    Raises:
        ValueError: it cannot be read, has unknown classes or names none of the images, or two images
            have one stem.
    """
    official = tuple(class_names) == BDD100K_BOX_CLASSES
    classes = BDD100K_NAMES if official else Classes(tuple(class_names))
    raw = read_scalabel(labels)
    classes.refuse_unknown(raw, str(labels))
    truth = {stem: classes.to_boxes(rows) for stem, rows in raw.items() if rows is not None}
    stems = by_stem(((str(path), path) for path in images), "images to score")
    if not truth.keys() & stems.keys():
        raise ValueError(
            f"expected labels of the images in {labels}, got none of the {len(stems)}: it names "
            f"{first_names(list(truth), 3) or 'no image with labels'}, the images are {first_names(list(stems), 3)}"
        )
    return truth


def score_boxes(
    names: Sequence[str],
    found: Sequence[Found],
    truth: Mapping[str, ImageBoxes],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Score predictions; an image without true boxes has no objects.

    Args:
        names: file names of the images.
        found: predictions.
        truth: by stem.
        class_names: of the ids.
    """
    nothing = Classes(()).to_boxes(())
    wanted = [
        {
            field: torch.from_numpy(value)
            for field, value in truth.get(stem_of(name), nothing)._asdict().items()
        }
        for name in names
    ]
    return detection_scores(wanted, found, len(class_names)).to_dict(class_names)


def _print(out: Path, result: Mapping[str, Any]) -> None:
    for path in result["unreadable"]:
        print(f"warning: {path} cannot be read, it has no boxes")
    scores = result["scores"]
    if scores is not None:
        for key, said in (
            ("images_without_labels", "images have no labels and count as images without objects"),
            ("labels_without_image", "labelled images are not in the folder and do not count"),
        ):
            if result[key]:
                print(f"warning: {result[key]} {said}")
        rows = [(name, percent(value)) for name, value in scores["ap_by_class"].items()]
        print_table(f"AP {percent(scores['ap'])}", ("class", "AP"), rows)
    left_out = f", {len(result['unreadable'])} cannot be read" if result["unreadable"] else ""
    print(
        f"boxes of {result['images']} images written to {out / 'predictions_official.json'}{left_out}"
    )
