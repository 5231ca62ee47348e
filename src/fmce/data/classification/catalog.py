"""The data sets known by name: size, classes, channel statistics, augmentation, where their files lie.

Plain facts without torch, since configs are made from them; the other files of this room read images.
"""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Reader = Literal["digits", "standard", "folder", "function"]

DIGIT_NAMES = tuple("0123456789")


@dataclass(frozen=True)
class DataSpec:
    """What is known of a data set before it is read."""

    name: str
    reader: Reader
    size: int
    """Native side in pixels; for image folders a suggestion."""
    flip: bool
    """Whether a mirrored image still belongs to its class."""
    num_classes: int | None = None
    """None where only the files say."""
    class_names: tuple[str, ...] = ()
    """Empty where only the files say."""
    mean: tuple[float, ...] | None = None
    """Per channel on the 0–1 scale, over the official training set; None takes the images that are read."""
    std: tuple[float, ...] | None = None
    shift: int = 4
    """Largest shift in pixels, by pad-and-crop."""
    standard_class: str = ""
    """Name of torchvision's class for its layout."""
    standard_folder: str = ""
    """Folder of that layout under the data root."""
    paper_epochs: int = 100
    """The paper's M for ShuffleNet v2."""
    paper_threshold: float = 1e-4
    """The paper's µ: 1e-4 for 10 classes, 1e-3 for 100."""


_FASHION_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_CIFAR10_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)

# Channel statistics come from the official training files (a test repeats the computation); those of
# CIFAR-100 and image folders from the images that are read.
_TABLE = (
    DataSpec("digits", "digits", 8, flip=False, num_classes=10, class_names=DIGIT_NAMES),
    DataSpec(
        "mnist",
        "standard",
        28,
        flip=False,
        num_classes=10,
        class_names=DIGIT_NAMES,
        mean=(0.130660,) * 3,
        std=(0.308108,) * 3,
        standard_class="MNIST",
        standard_folder="MNIST/raw",
    ),
    DataSpec(
        "fashion-mnist",
        "standard",
        28,
        flip=True,
        num_classes=10,
        class_names=_FASHION_NAMES,
        mean=(0.286041,) * 3,
        std=(0.353024,) * 3,
        standard_class="FashionMNIST",
        standard_folder="FashionMNIST/raw",
        paper_epochs=100,  # Not given in the paper: as for MNIST.
    ),
    DataSpec(
        "cifar10",
        "standard",
        32,
        flip=True,
        num_classes=10,
        class_names=_CIFAR10_NAMES,
        mean=(0.491400, 0.482158, 0.446531),
        std=(0.247030, 0.243485, 0.261587),
        standard_class="CIFAR10",
        standard_folder="cifar-10-batches-py",
        paper_epochs=150,
    ),
    DataSpec(
        "cifar100",
        "standard",
        32,
        flip=True,
        num_classes=100,
        standard_class="CIFAR100",
        standard_folder="cifar-100-python",
        paper_epochs=150,  # Not given in the paper: as for CIFAR-10.
        paper_threshold=1e-3,
    ),
    # The paper's M is 250 for ShuffleNet v2 and 150 for ResNet-50.
    DataSpec(
        "mini-imagenet",
        "folder",
        84,
        flip=True,
        num_classes=100,
        paper_epochs=250,
        paper_threshold=1e-3,
    ),
    DataSpec("image-folder", "folder", 84, flip=True, paper_epochs=150),
)
SPECS: dict[str, DataSpec] = {spec.name: spec for spec in _TABLE}

# Nothing is known of custom data, so nothing is mirrored unless the config says so.
_CUSTOM = DataSpec("module:function", "function", 32, flip=False)


def spec_of(name: str) -> DataSpec:
    """Return what is known of a data set.

    Args:
        name: A name of the table, "image-folder:FOLDER" (a folder under the data root) or
            "my.module:function".

    Raises:
        ValueError: If no data set has that name; the choices are listed.

    >>> spec_of("mnist").flip, spec_of("cifar10").flip
    (False, True)
    """
    kind, colon, rest = name.partition(":")
    if kind == "image-folder" and (rest or not colon):
        return SPECS["image-folder"]
    if rest and kind not in SPECS:
        return _CUSTOM
    if name not in SPECS:
        near = difflib.get_close_matches(name, SPECS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"unknown data set {name!r}; {hint}choose from {', '.join(SPECS)}, "
            "image-folder:FOLDER, my.module:function"
        )
    return SPECS[name]


def data_root(root: str | Path | None) -> Path:
    """Return the folder of all data sets: the one given, else $FMCE_DATA, else ./data."""
    return Path(root or os.environ.get("FMCE_DATA") or "data").expanduser()
