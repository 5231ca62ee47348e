"""The data sets known by name: size, classes, channel statistics, augmentation; without torch, for configs."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Reader = Literal["digits", "standard", "folder", "function"]

DIGIT_NAMES = tuple("0123456789")


@dataclass(frozen=True)
class DataSpec:
    """What is known of a data set before it is read; classes may be known from its files only.

    Attributes:
        size: Native side in pixels; for image folders a suggestion.
        flip: Whether a mirrored image still belongs to its class.
        num_classes: None where only the files say.
        class_names: Empty where only the files say.
        shift: Largest shift in pixels, by pad-and-crop.
        paper_epochs: The paper's M for ShuffleNet v2.
        paper_threshold: The paper's µ: 1e-4 for 10 classes, 1e-3 for 100.
    """

    name: str
    reader: Reader
    size: int
    flip: bool
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    shift: int = 4
    paper_epochs: int = 100
    paper_threshold: float = 1e-4


_FASHION_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_CIFAR10_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)

_TABLE = (
    DataSpec("digits", "digits", 8, False, 10, DIGIT_NAMES),
    DataSpec("mnist", "standard", 28, False, 10, DIGIT_NAMES),
    # M is not given in the paper: as for MNIST; of CIFAR-100 as for CIFAR-10.
    DataSpec("fashion-mnist", "standard", 28, True, 10, _FASHION_NAMES),
    DataSpec("cifar10", "standard", 32, True, 10, _CIFAR10_NAMES, paper_epochs=150),
    DataSpec("cifar100", "standard", 32, True, 100, paper_epochs=150, paper_threshold=1e-3),
    # The paper's M is 250 for ShuffleNet v2 and 150 for ResNet-50.
    DataSpec("mini-imagenet", "folder", 84, True, 100, paper_epochs=250, paper_threshold=1e-3),
    DataSpec("image-folder", "folder", 84, True, paper_epochs=150),
)
SPECS: dict[str, DataSpec] = {spec.name: spec for spec in _TABLE}

# Mean and standard deviation per channel on the 0–1 scale, from the official training files (a test repeats
# the computation). Those of other data sets come from the images that are read.
CHANNEL_STATISTICS = {
    "mnist": ((0.130660,) * 3, (0.308108,) * 3),
    "fashion-mnist": ((0.286041,) * 3, (0.353024,) * 3),
    "cifar10": ((0.491400, 0.482158, 0.446531), (0.247030, 0.243485, 0.261587)),
}

# Nothing is known of custom data, so nothing is mirrored unless the config says so.
_CUSTOM = DataSpec("module:function", "function", 32, flip=False)


def spec_of(name: str) -> DataSpec:
    """Return what is known of a data set, "image-folder:FOLDER" or "my.module:function".

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
