"""Predictions of a trained student, or its teacher, on a folder of images: class maps or boxes, with scores."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from fmce.config.choices import Arm
from fmce.config.trust import Trust
from fmce.console.progress import Progress
from fmce.data.augmentation import Augmentation
from fmce.data.detection.boxes import ImageBoxes
from fmce.data.detection.labels import by_stem
from fmce.data.detection.scalabel import to_scalabel
from fmce.data.image_files import (
    IMAGE_SUFFIXES,
    ReadFailures,
    first_names,
    list_images,
    stem_of,
)
from fmce.data.image_reader import DAMAGE_ERRORS, ImageArray, read_rgb
from fmce.data.segmentation import CAMVID_VOID
from fmce.distillation.experiment import open_experiment
from fmce.distillation.predict_boxes import ImageDetections, predict_boxes, read_truth, score_boxes
from fmce.distillation.predict_masks import predict_mask, score_masks, true_masks
from fmce.engine.runtime import Runtime, make_runtime
from fmce.files import replacing, write_json
from fmce.losses.distillation import IGNORE_INDEX
from fmce.tasks.detection import DetectionTask
from fmce.tasks.distillation import SegmentationTask

Network = Literal["teacher"] | Arm


def predict(
    experiment: Path,
    images: Path,
    out: Path,
    *,
    network: Network = "function_matching",
    seed: int | None = None,
    masks: Path | None = None,
    labels: Path | None = None,
    runtime: Runtime | None = None,
    trust: Trust = False,
) -> dict[str, Any]:
    """Predict every image of a folder, in BDD100K's official form.

    Task "segment" writes one PNG per image: train ids uint8 (H,W), of the image's own size, named by its stem and
    nested as the images are. Task "detect" writes `out/predictions_official.json` with the boxes of all images, in
    pixels of each image.

    An image is brought to the scale that the experiment was trained at, complete and not cropped. Logits are
    brought back to the image's own size before the class is chosen.

    Args:
        experiment: Folder of `distill`, of task "segment" or "detect".
        images: Folder of images, nested or not.
        out: Folder to write: new, or with the masks of an unfinished attempt; outside `images`.
        network: "teacher", or the arm of a student.
        seed: Of the student; the experiment's first by default.
        masks: For "segment": folder of true masks of the same names; the predictions are scored against them.
        labels: For "detect": Scalabel JSON with the true boxes, checked before anything is predicted.
        runtime: Device and precision.
        trust: Whether functions that the experiment's config names may run; or which.

    Returns:
        The contents of `out/predictions.json`: "images" (how many were predicted), "unreadable" (paths),
        "scores" (mIoU or AP and their families, fractions) or None, and the network's description.

    Raises:
        FileNotFoundError: If the experiment or the student does not exist.
        ValueError: If the experiment classifies, there are no images, masks or labels do not fit, or an output would
            overwrite another, an image or a mask. All of this is checked before anything is predicted.
        UnreadableDataError: If more than one image in a hundred, and at least five, cannot be read.

    Example:
        With the true masks, the predictions are scored::

            result = predict(Path("runs/bdd"), Path("images"), Path("out"), masks=Path("masks"))
            print(result["scores"]["miou"])
    """
    opened = open_experiment(experiment, trust=trust)
    config, task = opened.config, opened.task
    if config.task == "classify":
        raise ValueError(f"{experiment} has task classify; expected task segment or detect")
    if (labels if config.task == "segment" else masks) is not None:
        raise ValueError(f"masks are for task segment and labels for detect; this is {config.task}")
    if (out / "predictions.json").exists():
        raise ValueError(f"{out} holds finished predictions; choose another folder, or delete it")
    paths = list_images(images, aloud=True)
    if not paths:
        raise ValueError(
            f"expected images ({', '.join(IMAGE_SUFFIXES)}) below {images}, found none"
        )
    class_names = opened.data.class_names
    if config.task == "detect":
        by_stem(((str(path), path) for path in paths), "images to predict")
        truth = None if labels is None else read_truth(labels, paths, class_names)
    else:
        targets = _targets(paths, images, out)
        ids = {CAMVID_VOID: IGNORE_INDEX} if config.data.name == "camvid" else {}
        true = None if masks is None else true_masks(masks, paths, images, class_names, ids)
        _refuse_overwriting(targets, [*paths, *(true.mask_paths if true else ())])
    runtime = runtime or make_runtime()
    student_seed = config.seeds[0] if seed is None else seed
    if network == "teacher":
        model, used_seed = opened.load_teacher(), None
    else:
        model, used_seed = opened.load_student(network, student_seed), student_seed
    model = model.to(runtime.device)
    result: dict[str, Any] = {"task": config.task, "network": network, "seed": used_seed}
    result["class_names"] = list(class_names)
    readable = ReadableImages(paths, (config.data.height, config.data.width))
    how: dict[str, Any] = {
        "size": (config.data.height, config.data.width),
        "normalise": Augmentation(opened.data.mean, opened.data.std),
    }
    with torch.inference_mode(), runtime.autocast():
        if isinstance(task, DetectionTask):
            find_boxes = partial(predict_boxes, task, model, **how)
            result |= _write_boxes(readable, find_boxes, out, truth, class_names)
        else:
            assert isinstance(task, SegmentationTask)
            done = _write_masks(readable, partial(predict_mask, task, model, **how), targets)
            result |= {"images": len(done), "unreadable": readable.unreadable}
            result["scores"] = None if true is None else score_masks(true, done)
    write_json(out / "predictions.json", result)
    return result


def _targets(paths: Sequence[Path], root: Path, out: Path) -> dict[Path, Path]:
    """Return the mask to write for each image, nested below `out` as the images are below `root`."""
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f"expected a folder outside the images in {root}, got {out}: its masks would be the next images"
        )
    targets: dict[Path, Path] = {}
    images: dict[Path, Path] = {}
    for path in paths:
        targets[path] = target = (out / path.relative_to(root)).with_suffix(".png")
        other = images.setdefault(target, path)
        if other != path:
            raise ValueError(f"{other} and {path} would both give {target}; rename one of them")
    return targets


def _refuse_overwriting(targets: Mapping[Path, Path], inputs: Iterable[Path]) -> None:
    read = {path.resolve() for path in inputs}
    lost = [str(path) for path in targets.values() if path.resolve() in read]
    if lost:
        raise ValueError(
            f"predictions would overwrite {first_names(lost)}, which are read; choose another folder to write"
        )


_MOST_LONGER = 16


class ReadableImages:
    """The images of some files, one by one, with progress; those that cannot be read end up in `unreadable`.

    So does an image much longer than those of the training, of `size`, which scaled to cover it would fill the memory.
    """

    def __init__(self, paths: list[Path], size: tuple[int, int]) -> None:
        self.paths, self.size, self.unreadable = paths, size, list[str]()

    def __iter__(self) -> Iterator[tuple[Path, ImageArray]]:
        failures = ReadFailures(instead="it is left out")
        with Progress("predicting", len(self.paths)) as progress:
            for number, path in enumerate(self.paths):
                try:
                    image = read_rgb(path)
                    longer = image.shape[0] * self.size[1] / image.shape[1] / self.size[0]
                    if not 1 / _MOST_LONGER <= longer <= _MOST_LONGER:
                        raise ValueError(
                            f"{image.shape[1]} × {image.shape[0]} pixels, more than {_MOST_LONGER} times as long as "
                            f"the images of the training, {self.size[1]} × {self.size[0]}"
                        )
                except DAMAGE_ERRORS as error:
                    failures.failed(number, error, lambda i: str(self.paths[i]))
                    self.unreadable.append(str(path))
                    continue
                failures.succeeded()
                yield path, image
                progress.advance(path.stem)


def _write_masks(
    readable: ReadableImages,
    answer: Callable[[ImageArray], Tensor],
    targets: Mapping[Path, Path],
) -> dict[Path, Path]:
    """Write the mask of each readable image; return those written, by image."""
    done = {}
    for path, image in readable:
        target = targets[path]
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as beside:
            Image.fromarray(answer(image).numpy()).save(beside, "PNG")
        done[path] = target
    return done


def _write_boxes(
    readable: ReadableImages,
    answer: Callable[[ImageArray], ImageDetections],
    out: Path,
    truth: Mapping[str, ImageBoxes] | None,
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Write the boxes of all images as one file; score them where there are true boxes, by stem."""
    found = {path.name: answer(image) for path, image in readable}
    names, boxes = [*found], [*found.values()]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "predictions_official.json", to_scalabel(names, boxes, class_names))
    result: dict[str, Any] = {"images": len(found), "unreadable": readable.unreadable}
    result["scores"] = None
    if truth is not None:
        stems = {stem_of(path.name) for path in readable.paths}
        result["images_without_labels"] = len(stems - truth.keys())
        result["labels_without_image"] = len(truth.keys() - stems)
        result["scores"] = score_boxes(names, boxes, truth, class_names)
    return result
