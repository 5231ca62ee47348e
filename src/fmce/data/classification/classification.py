"""Data sets of the original task in three parts: by name, from image folders, or from a custom function."""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fmce.data.batch import ImageSet
from fmce.data.classification.catalog import (
    CHANNEL_STATISTICS,
    DIGIT_NAMES,
    DataSpec,
    data_root,
    spec_of,
)
from fmce.data.classification.custom import call_custom, custom_parts
from fmce.data.classification.image_folder import read_image_folder
from fmce.data.classification.splits import (
    DataParts,
    balanced_subset,
    hold_out,
    scikit_learns_split,
    validation_count,
)
from fmce.data.classification.torchvision_files import download_standard, read_standard
from fmce.data.transforms import channel_statistics

# FMCE paper, Mini-ImageNet: 48,000 of 60,000 images train.
TEST_SHARE = 0.2


@dataclass(frozen=True)
class ClassificationData:
    """A classification data set in three disjoint parts.

    `validation` selects settings such as RAF; neither oracle nor arms train on it. `test` is read once.
    """

    name: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str = ""
    """Where the images came from, in words."""


def read_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return scikit-learn's digits without its import, which takes longer than an epoch: (1797, 64) and (1797,).

    Grey levels are 0 to 16.

    Raises:
        ModuleNotFoundError: If scikit-learn, which brings their file, is not installed.
    """
    package = find_spec("sklearn")
    if package is None or not package.origin:
        raise ModuleNotFoundError("the digits come with scikit-learn: pip install scikit-learn")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1], table[:, -1].astype(np.int64)


def digits(split_seed: int = 0) -> ClassificationData:
    """Return scikit-learn's 1,797 handwritten digits, 8×8 grey: 1,257 train, 180 validation, 360 test.

    The seed draws the parts, with the classes in proportion.
    """
    pixels, classes = read_digits()
    # Grey levels 0–16 onto 0–255.
    images = torch.from_numpy(np.round(pixels * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    targets = torch.from_numpy(classes)
    rest, held = scikit_learns_split(classes, 360, split_seed)
    chosen, few = (rest[i] for i in scikit_learns_split(classes[rest], 180, split_seed))
    train, validation, test = (
        ImageSet(images, targets).select(torch.from_numpy(np.sort(index)))
        for index in (chosen, few, held)
    )
    mean, std = channel_statistics(train.images)
    return ClassificationData(
        "digits", train, validation, test, DIGIT_NAMES, mean, std, "scikit-learn"
    )


def load_classification(
    name: str,
    *,
    split_seed: int = 0,
    root: str | Path | None = None,
    image_size: int | None = None,
    train_images: int | None = None,
) -> ClassificationData:
    """Load a data set by name.

    Args:
        name: One of `catalog.SPECS` ("mini-imagenet" is an image folder of that name, "image-folder" the
            root itself), "image-folder:FOLDER" under the root or "my.module:function" (`call_custom`).
        split_seed: Draws validation images, test images where the files have none, and the subset.
        root: Folder of all data sets; $FMCE_DATA or ./data by default.
        image_size: Side in pixels that the files of an image folder are resized to when read; the
            spec's by default. Other sets keep their size.
        train_images: Training images to keep, with balanced classes; None keeps all.

    Raises:
        ValueError: If no data set has that name, or its files are damaged.
        FileNotFoundError: If files are missing; the message says what was expected where.

    >>> data = load_classification("digits", train_images=100)
    >>> len(data.train), data.train.targets.bincount().tolist()
    (100, [10, 10, 10, 10, 10, 10, 10, 10, 10, 10])
    """
    data = _load(name, spec_of(name), data_root(root), split_seed, image_size)
    if train_images is None:
        return data
    kept = balanced_subset(data.train.targets.numpy(), train_images, split_seed)
    return replace(data, train=data.train.select(torch.from_numpy(kept)))


def download_data(name: str, root: str | Path | None = None) -> None:
    """Download a data set that torchvision can download, unless it is there.

    Raises:
        ValueError: If torchvision cannot download it.
        ConnectionError: If a download fails.
    """
    spec = spec_of(name)
    if spec.reader != "standard":
        raise ValueError(f"data set {name!r} cannot be downloaded; leave --download out")
    download_standard(spec, data_root(root))


def _load(
    name: str, spec: DataSpec, root: Path, split_seed: int, image_size: int | None
) -> ClassificationData:
    if spec.reader == "digits":
        return digits(split_seed)
    if spec.reader == "standard":
        parts = read_standard(spec, root)
    elif spec.reader == "folder":
        folder = name.partition(":")[2] or ("" if name == "image-folder" else name)
        parts = read_image_folder(root / folder, image_size or spec.size)
    else:
        returned = call_custom(name, root=root, image_size=image_size, split_seed=split_seed)
        if isinstance(returned, ClassificationData):
            return returned
        parts = custom_parts(name, returned)
    return _complete(name, parts, spec, split_seed)


def _complete(name: str, parts: DataParts, spec: DataSpec, seed: int) -> ClassificationData:
    """Draw the splits that the files lack, test first, both from the training images."""
    train, validation, test = parts.train, parts.validation, parts.test
    if test is None:
        train, test = _split(train, max(1, round(TEST_SHARE * len(train))), seed)
    if validation is None:
        train, validation = _split(train, validation_count(len(train)), seed)
    mean, std = CHANNEL_STATISTICS.get(spec.name) or channel_statistics(train.images)
    return ClassificationData(
        name, train, validation, test, parts.class_names, mean, std, parts.source
    )


def _split(images: ImageSet, count: int, seed: int) -> tuple[ImageSet, ImageSet]:
    kept, held = hold_out(images.targets.numpy(), count, seed)
    return images.select(torch.from_numpy(kept)), images.select(torch.from_numpy(held))
