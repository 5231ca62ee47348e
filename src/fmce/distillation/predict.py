"""`fmce predict`: class maps or boxes of a folder of images in BDD100K's official form, scored where labelled."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fmce.config.choices import Arm
from fmce.config.distillation import DistillationConfig
from fmce.config.io import from_yaml
from fmce.console.progress import Progress
from fmce.console.tables import percent, print_table
from fmce.data.augmentation import Augmentation
from fmce.data.image_files import (
    DAMAGE_ERRORS,
    ImageArray,
    ReadFailures,
    list_images,
    read_ids,
    read_rgb,
)
from fmce.data.segmentation import CAMVID_VOID
from fmce.distillation.data.dataset import read_distillation_data
from fmce.distillation.experiment import load_student, make_task
from fmce.distillation.predict_boxes import predict_boxes
from fmce.distillation.teacher import load_teacher
from fmce.engine.runtime import Runtime, make_runtime
from fmce.files import replacing, write_json
from fmce.losses.distillation import IGNORE_INDEX
from fmce.metrics.segmentation import confusion, segmentation_scores
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
    quiet: bool = False,
) -> dict[str, Any]:
    """Write one mask of train ids per image, of its own size and named by its stem; or all boxes.

    Of a detector, `out/predictions_official.json` holds the boxes of all images.

    An image is brought to the scale the experiment trained at, whole and not cut; its logits are
    brought back to its own size before the class is chosen.

    Args:
        experiment: folder of `fmce distill`, task "segment".
        images: folder, nested or not; the masks are nested alike.
        out: folder to write, new or with an unfinished attempt's masks.
        network: "teacher", or the arm of a student.
        seed: of the student; the experiment's first by default.
        masks: masks of the same names with the truth; the predictions are scored against them.
        labels: for task "detect": Scalabel JSON with the true boxes, checked before anything is predicted.
        runtime: device and precision.
        quiet: print nothing.

    Returns:
        The contents of `out/predictions.json`: counts, unreadable files, and scores or None.

    Raises:
        FileNotFoundError: the experiment or the student is not there.
        ValueError: the experiment segments nothing, there are no images, or masks or labels do not fit.
        UnreadableDataError: more than one image in a hundred, and at least five, cannot be read.
    """
    if not (experiment / "distill.json").exists():
        raise FileNotFoundError(
            f"{experiment} has no distill.json; run: fmce distill --out {experiment}"
        )
    config = from_yaml(DistillationConfig, experiment / "config.yaml")
    if config.task == "classify":
        raise ValueError(
            f"{experiment} has task classify; class maps and boxes need task segment or detect"
        )
    if (masks is not None and config.task == "detect") or (
        labels is not None and config.task != "detect"
    ):
        raise ValueError(f"masks are for task segment and labels for detect; this is {config.task}")
    runtime = runtime or make_runtime()
    data = read_distillation_data(experiment)
    model = _network(config, experiment, network, seed).to(runtime.device)
    paths = list_images(images)
    if not paths:
        raise ValueError(f"expected images (JPEG, PNG, WebP) below {images}, found none")
    task = make_task(config, data)
    size, augmentation = (config.data.height, config.data.width), Augmentation(data.mean, data.std)
    about: dict[str, Any] = {
        "network": network,
        "seed": None if network == "teacher" else config.seeds[0] if seed is None else seed,
        "class_names": list(data.class_names),
    }
    if isinstance(task, DetectionTask):
        result = about | predict_boxes(
            task,
            model,
            paths,
            out,
            size=size,
            augmentation=augmentation,
            labels=labels,
            runtime=runtime,
            quiet=quiet,
        )
        write_json(out / "predictions.json", result)
        return result
    assert isinstance(task, SegmentationTask)
    unreadable = _write_masks(task, model, paths, images, out, size, augmentation, runtime)
    scores = None
    if masks is not None:
        scores = score_masks(
            out,
            masks,
            data.class_names,
            id_map={CAMVID_VOID: IGNORE_INDEX} if config.data.name == "camvid" else {},
            left_out={_key(Path(path), images) for path in unreadable},
        )
    result = about | {
        "images": len(paths) - len(unreadable),
        "unreadable": unreadable,
        "scores": scores,
    }
    write_json(out / "predictions.json", result)
    if not quiet:
        _print(out, result)
    return result


def predict_ids(
    task: SegmentationTask,
    model: nn.Module,
    image: ImageArray,
    size: tuple[int, int],
    augmentation: Augmentation,
) -> Tensor:
    """Return the class of every pixel of one image.

    Args:
        task: says what the logits are.
        model: in eval mode.
        image: uint8 (H,W,3), any size.
        size: height and width that training images were brought to.
        augmentation: normalisation.

    Returns:
        uint8 (H,W) on the CPU.
    """
    height, width = image.shape[:2]
    # The scale at which training images covered their size, so that objects are as large as there.
    scale = max(size[0] / height, size[1] / width)
    scaled = Image.fromarray(image).resize(
        (round(width * scale), round(height * scale)), Image.Resampling.BILINEAR
    )
    pixels = torch.from_numpy(np.array(scaled)).permute(2, 0, 1)[None]
    device = next(model.parameters()).device
    normalised, _ = augmentation(pixels.to(device))
    logits = task.logits(model, normalised).float()
    if logits.shape[2:] != (height, width):
        logits = torch.nn.functional.interpolate(
            logits, (height, width), mode="bilinear", align_corners=False
        )
    return logits.argmax(1)[0].to(torch.uint8).cpu()


def score_masks(
    preds: Path,
    masks: Path,
    class_names: Sequence[str],
    *,
    id_map: Mapping[int, int] | None = None,
    left_out: Collection[str] = (),
) -> dict[str, Any]:
    """Score a folder of predicted masks against the true ones, by BDD100K's rules.

    Args:
        preds: PNGs of train ids.
        masks: the same names, perhaps with `_train_id` behind the stem; 255 is ignored.
        class_names: of the ids 0 … C − 1; a prediction outside them is an error.
        id_map: ids in the true masks to train ids or 255, for those that differ.
        left_out: images without a prediction because they cannot be read: paths without suffix.

    Raises:
        ValueError: names do not match, or a mask holds other ids or another size.
    """
    classes = len(class_names)
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    truths = {_key(path, masks): path for path in list_images(masks, (".png", ".webp"))}
    truths = {key: path for key, path in truths.items() if key not in left_out}
    predicted = {_key(path, preds): path for path in list_images(preds, (".png",))}
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


def _key(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix().removesuffix("_train_id")


def _network(
    config: DistillationConfig, experiment: Path, network: Network, seed: int | None
) -> nn.Module:
    data = read_distillation_data(experiment)
    if network == "teacher":
        return load_teacher(config, experiment, data)
    return load_student(
        config, experiment, data, network, config.seeds[0] if seed is None else seed
    )


def _write_masks(
    task: SegmentationTask,
    model: nn.Module,
    paths: Sequence[Path],
    root: Path,
    out: Path,
    size: tuple[int, int],
    augmentation: Augmentation,
    runtime: Runtime,
) -> list[str]:
    """Write every image's mask; return the files that could not be read."""
    failures = ReadFailures(instead="it is left out")
    with Progress("predicting", len(paths)) as progress, torch.inference_mode():
        for number, path in enumerate(paths):
            try:
                image = read_rgb(path)
            except DAMAGE_ERRORS as error:
                failures.failed(number, error, lambda i: str(paths[i]))
                continue
            failures.succeeded()
            with runtime.autocast():
                ids = predict_ids(task, model, image, size, augmentation)
            target = (out / path.relative_to(root)).with_suffix(".png")
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as beside:
                Image.fromarray(ids.numpy()).save(beside, "PNG")
            progress.advance(path.stem)
    return [str(paths[i]) for i in failures.failed_items]


def _print(out: Path, result: dict[str, Any]) -> None:
    for path in result["unreadable"]:
        print(f"warning: {path} cannot be read, it has no mask")
    if result["scores"] is not None:
        rows = [(name, percent(value)) for name, value in result["scores"]["iou"].items()]
        title = f"{result['network']}: mIoU {percent(result['scores']['miou'])}"
        print_table(title, ("class", "IoU"), rows)
    print(f"{result['images']} masks of train ids written to {out}")
