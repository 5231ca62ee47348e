"""The images of a function-matching experiment: prepared once, then read by all its trainings."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fmce.config.choices import TaskName
from fmce.config.distillation import DistillationDataConfig
from fmce.data.classification.classification import load_classification
from fmce.data.frames.pool import FramePool
from fmce.data.image_files import ImageArray, first_names
from fmce.data.pools import (
    ImagePool,
    as_pool,
    resize_and_center_crop,
    resize_and_center_crop_mask,
    stack_images,
)
from fmce.data.road_scenes.scenes import SCENE_CLASSES, SceneBatch
from fmce.data.segmentation import (
    SegmentationFiles,
    bdd100k_segmentation,
    camvid,
    folder_pair,
)
from fmce.distillation.data.detection import detection_data
from fmce.distillation.data.memory import image_bytes
from fmce.distillation.data.pools import (
    POOLS,
    DistillationData,
    required_root,
    sample_indices,
    with_statistics,
)
from fmce.distillation.data.road_scenes import scene_data
from fmce.distillation.data.unlabelled import read_frames, unlabelled_pools, write_frames
from fmce.files import read_json, remove_leftovers, replacing, write_json

# What `prepare_distillation_data` writes into an experiment's folder; the last where frames stay in files.
PREPARED = ("data.json", "data.safetensors", "unlabelled.json")


def load_distillation_data(task: TaskName, config: DistillationDataConfig) -> DistillationData:
    """Read or render all images of an experiment.

    Args:
        task: "segment", "classify" or "detect".
        config: which images, how many labelled, which unlabelled.

    Raises:
        ValueError: the data set is unknown or incomplete, or the images would not fit in memory.
    """
    made = task == "classify" or config.name == "scenes"
    if made and config.folders:
        other = "yolo (or bdd100k, kitti, coco, voc)" if task == "detect" else "folder"
        raise ValueError(
            f"data.folders is for labelled images in files; {config.name} has unlabelled images of its own, "
            f"so leave the folders out or name other data: --set data.name={other}"
        )
    if task == "classify":
        data = _classification(config)
    elif task == "detect":
        data = detection_data(config)
    elif config.name == "scenes":
        data = scene_data(config, _with_masks, SCENE_CLASSES)
    else:
        data = _files(config)
    return replace(data, mean=config.mean, std=config.std) if config.mean else data


def prepare_distillation_data(
    folder: Path, task: TaskName, config: DistillationDataConfig
) -> DistillationData:
    """Return the experiment's images, from `folder` if they were prepared there before.

    Args:
        folder: of the experiment; `data.safetensors` and `data.json` are written into it.
        task: "segment", "classify" or "detect".
        config: which images.
    """
    if not (folder / "data.json").exists():
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
        write_json(folder / "data.json", about | counts | {"damaged": _damaged(data)})
    return read_distillation_data(folder)


def read_distillation_data(folder: Path, *, workers: int = 0) -> DistillationData:
    """Read what `prepare_distillation_data` wrote; the images are mapped, not copied.

    Args:
        folder: of the experiment.
        workers: processes that decode frames in files, where the config sets none.
    """
    about = read_json(folder / "data.json")
    with safe_open(folder / "data.safetensors", framework="pt") as file:
        names = set(file.keys())
        pools: dict[str, Any] = {
            name: ImagePool(
                file.get_tensor(f"{name}.images"),
                file.get_tensor(f"{name}.targets") if f"{name}.targets" in names else None,
            )
            for name in POOLS
            if f"{name}.images" in names
        }
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
    """Return how many files of each pool were damaged when it was read, and the first of them.

    Args:
        folder: of the experiment; one that was prepared before this was written down names none.
    """
    return dict(read_json(folder / "data.json").get("damaged", {}))


def _with_masks(scenes: SceneBatch) -> ImagePool:
    return as_pool(scenes.images, scenes.masks)


def _files(config: DistillationDataConfig) -> DistillationData:
    train, validation = (
        _segmentation(config, split).tolerating(config.max_damaged) for split in ("train", "val")
    )
    for files in (train, validation):
        files.check()  # a mask of other ids must not pass for a damaged file
    order = np.random.default_rng(config.seed).permutation(len(train))
    count = min(config.labelled or len(train), len(train))
    left_out = [train.image_paths[i] for i in np.sort(order[count:])]
    labelled = train.select(np.sort(order[:count]).tolist())
    few = sample_indices(len(validation), config.validation, config.seed)
    others = image_bytes(config, len(labelled) + len(few), masks=True)
    pool, held_out = unlabelled_pools(
        config, validation.stems, labelled.stems, left_out, others=others
    )
    return with_statistics(
        _labelled(labelled, config),
        pool,
        held_out,
        _labelled(validation.select(few), config),
        train.class_names,
    )


def _segmentation(config: DistillationDataConfig, split: str) -> SegmentationFiles:
    root = required_root(config)
    exclude = config.exclude or ()
    if config.name == "camvid":
        return camvid(root, split, exclude=exclude)
    if config.name == "bdd100k":
        return bdd100k_segmentation(root, split, exclude=exclude)
    if config.name == "folder":
        if not config.class_names:
            raise ValueError(
                "data.class_names is empty; name the classes of the masks' ids 0 … C − 1"
            )
        return folder_pair(
            root / "images" / split,
            root / "masks" / split,
            config.class_names,
            exclude=exclude,
        )
    raise ValueError(
        f"unknown segmentation data {config.name!r}; choose from scenes, camvid, bdd100k, folder"
    )


def _labelled(files: SegmentationFiles, config: DistillationDataConfig) -> ImagePool:
    size = (config.height, config.width)
    masks = np.empty((len(files), *size), np.uint8)

    def images() -> Iterator[ImageArray]:
        for i in range(len(files)):
            item = files[i]
            masks[i] = resize_and_center_crop_mask(item.mask, *size)
            yield resize_and_center_crop(item.image, *size)

    images_of_all = stack_images(images(), len(files))
    return ImagePool(images_of_all, torch.from_numpy(masks), files.damaged)


def _classification(config: DistillationDataConfig) -> DistillationData:
    """Labels of a class-balanced part of the training images; the others join the pool."""
    data = load_classification(config.name, split_seed=config.seed, root=config.root)
    from sklearn.model_selection import train_test_split

    everything = np.arange(len(data.train))
    chosen, rest = everything, everything[:0]
    if config.labelled is not None and config.labelled < len(everything):
        chosen, rest = train_test_split(
            everything,
            train_size=config.labelled,
            stratify=data.train.targets.numpy(),
            random_state=config.seed,
        )
    held_out = rest[: config.held_out]
    pool = rest[config.held_out :][: config.unlabelled]
    images = _resized(data.train.images, config)
    return with_statistics(
        ImagePool(images[np.sort(chosen)], data.train.targets[np.sort(chosen)]),
        ImagePool(images[pool]),
        ImagePool(images[held_out]),
        ImagePool(_resized(data.test.images, config), data.test.targets).select(
            sample_indices(len(data.test), config.validation, config.seed)
        ),
        data.class_names,
    )


def _resized(images: torch.Tensor, config: DistillationDataConfig) -> torch.Tensor:
    grey_to_rgb = images.expand(-1, 3, -1, -1)
    if images.shape[-2:] == (config.height, config.width):
        return grey_to_rgb.contiguous()
    size = (config.height, config.width)
    resized = torch.nn.functional.interpolate(
        grey_to_rgb.float(), size, mode="bilinear", antialias=True
    )
    return resized.round().clamp(0, 255).to(torch.uint8)
