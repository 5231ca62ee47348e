"""Data sets of the original task: handwritten digits that come with scikit-learn."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fmce.data.batch import ImageSet
from fmce.data.transforms import channel_statistics


@dataclass(frozen=True)
class ClassificationData:
    """A classification data set in three disjoint parts.

    `validation` chooses settings such as RAF; neither oracle nor arms train on it. `test` is read once.
    """

    name: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def digits(split_seed: int = 0) -> ClassificationData:
    """Return scikit-learn's 1,797 handwritten digits, 8×8 grey: 1,257 train, 180 validation, 360 test.

    Args:
        split_seed: draws the parts, each with the classes in proportion.
    """
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    # Grey levels 0–16 onto the whole of 0–255.
    images = torch.from_numpy(np.round(pixels * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    targets = torch.from_numpy(classes.astype(np.int64))
    return three_parts(
        "digits", images, targets, tuple("0123456789"), validation=180, test=360, seed=split_seed
    )


def three_parts(
    name: str,
    images: Tensor,
    targets: Tensor,
    class_names: tuple[str, ...],
    *,
    validation: int,
    test: int,
    seed: int,
) -> ClassificationData:
    """Split images into train, validation and test, classes in proportion.

    Args:
        name: of the data set.
        images: uint8 (N,C,H,W).
        targets: int64 (N,).
        class_names: name of each class index.
        validation: number of validation images.
        test: number of test images.
        seed: draws the parts.
    """
    from sklearn.model_selection import train_test_split

    everything, y = np.arange(len(targets)), targets.numpy()
    rest, test_index = train_test_split(everything, test_size=test, stratify=y, random_state=seed)
    train_index, validation_index = train_test_split(
        rest, test_size=validation, stratify=y[rest], random_state=seed
    )
    parts = [torch.from_numpy(np.sort(i)) for i in (train_index, validation_index, test_index)]
    train, val, held_out = (ImageSet(images[i], targets[i]) for i in parts)
    mean, std = channel_statistics(train.images)
    return ClassificationData(name, train, val, held_out, class_names, mean, std)


LOADERS: dict[str, Callable[[int], ClassificationData]] = {"digits": digits}


def load_classification(name: str, *, split_seed: int = 0) -> ClassificationData:
    """Load a data set by name.

    Raises:
        ValueError: no data set has that name.
    """
    if name not in LOADERS:
        near = difflib.get_close_matches(name, LOADERS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown data set {name!r}; {hint}choose from {', '.join(LOADERS)}")
    return LOADERS[name](split_seed)
