"""The images of a function-matching experiment: prepared once, then read by all its trainings."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from fmce.config.choices import TaskName
from fmce.config.distillation import DistillationDataConfig
from fmce.console.log import logger
from fmce.data.frames.pool import FramePool
from fmce.data.image_files import first_names
from fmce.data.pools import ImagePool
from fmce.digests import check_file, file_digest, read_record, write_record
from fmce.distillation.data.classification import classification_data
from fmce.distillation.data.detection import detection_data
from fmce.distillation.data.pools import POOLS, DistillationData, warn_of_unmatched_stems
from fmce.distillation.data.segmentation import segmentation_data
from fmce.distillation.data.unlabelled import read_frames, write_frames
from fmce.files import reading, remove_leftovers, replacing

# What `prepare_distillation_data` writes into an experiment's folder; the last where frames stay in files.
PREPARED = ("data.json", "data.safetensors", "unlabelled.json")
_REMEDY = "repeat fmce distill, which prepares the images again"
_READERS = {
    "classify": classification_data,
    "detect": detection_data,
    "segment": segmentation_data,
}


def load_distillation_data(task: TaskName, config: DistillationDataConfig) -> DistillationData:
    """Read or render all images of an experiment.

    Raises:
        ValueError: If the data set is unknown or incomplete, or the images would not fit in memory.
    """
    if config.folders and (task == "classify" or config.name == "scenes"):
        other = "yolo (or bdd100k, kitti, coco, voc)" if task == "detect" else "folder"
        raise ValueError(
            f"data.folders is for labelled images in files; {config.name} has unlabelled images of its own, "
            f"so leave the folders out or name other data: --set data.name={other}"
        )
    data = _READERS[task](config)
    warn_of_unmatched_stems(config)
    return replace(data, mean=config.mean, std=config.std) if config.mean else data


def prepare_distillation_data(
    folder: Path, task: TaskName, config: DistillationDataConfig
) -> DistillationData:
    """Return the experiment's images, from its folder if `load_distillation_data` prepared them there before.

    Damaged ones are prepared again.

    Raises:
        ValueError: If damaged ones cannot be made again as they were.
    """
    before = None
    if (folder / "data.json").exists():
        try:
            return read_distillation_data(folder)
        except ValueError as error:
            logger.warning("%s; the images are prepared again", error)
            with suppress(ValueError):
                before = read_record(folder / "data.json")["sha256"]
    data = load_distillation_data(task, config)
    tensors = {}
    for name in POOLS:
        pool: ImagePool | FramePool = getattr(data, name)
        if isinstance(pool, FramePool):
            write_frames(folder, pool, config)
            continue
        tensors[f"{name}.images"] = pool.images
        if pool.targets is not None:
            tensors[f"{name}.targets"] = pool.targets
    remove_leftovers(folder / "data.safetensors")
    with replacing(folder / "data.safetensors") as beside:
        save_file(tensors, beside)
    about = {"class_names": data.class_names, "mean": data.mean, "std": data.std}
    counts = {n: len(getattr(data, n)) for n in POOLS}
    files = (folder / name for name in PREPARED[1:])
    digests = {file.name: file_digest(file) for file in files if file.exists()}
    if before not in (None, digests):
        raise ValueError(
            f"{folder / 'data.safetensors'} is damaged, and the images it was made from are others now; put them back, "
            "or name another folder"
        )
    noted = {**about, **counts, "damaged": _damaged(data), "sha256": digests}
    write_record(folder / "data.json", noted)
    return read_distillation_data(folder)


def read_distillation_data(folder: Path, *, workers: int = 0) -> DistillationData:
    """Read what was prepared; images are mapped, and `workers` decode frames in files where the config sets none."""
    needed, file = ("class_names", "mean", "std"), folder / "data.safetensors"
    about = read_record(folder / "data.json", needed, _REMEDY)
    for name, digest in about.get("sha256", {}).items():
        check_file(folder / name, digest, _REMEDY)
    with reading(file, "images", _REMEDY), safe_open(file, framework="pt") as tensors:
        names = set(tensors.keys())
        pools: dict[str, Any] = {
            name: ImagePool(
                tensors.get_tensor(f"{name}.images"),
                tensors.get_tensor(f"{name}.targets") if f"{name}.targets" in names else None,
            )
            for name in POOLS
            if f"{name}.images" in names
        }
    with reading(folder / "data.json", "images of an experiment", _REMEDY):
        frames = read_frames(folder, workers)
        if frames is not None:
            pools["unlabelled"] = frames
        return DistillationData(
            **pools,
            class_names=tuple(about["class_names"]),
            mean=tuple(about["mean"]),
            std=tuple(about["std"]),
        )


def _damaged(data: DistillationData) -> dict[str, Any]:
    """Return, for pools with damaged files, how many and the first; frames left in files are not read yet."""
    pools = {n: getattr(data, n) for n in POOLS if isinstance(getattr(data, n), ImagePool)}
    return {
        name: {"count": len(pool.damaged), "first": first_names(pool.damaged)}
        for name, pool in pools.items()
        if pool.damaged
    }


def damaged_images(folder: Path) -> dict[str, Any]:
    """Return how many files of each pool were damaged when it was read, and the first of them."""
    return dict(read_record(folder / "data.json", ("damaged",), _REMEDY)["damaged"])
