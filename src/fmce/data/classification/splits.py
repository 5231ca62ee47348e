"""The splits of classification data: those of its files, and how missing ones are drawn, class by class.

The papers name no validation images and no subsets.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmce.data.batch import ImageSet

Index = NDArray[np.int64]

# Not given in the paper: a tenth of the training images, at most 5,000, select settings such as RAF.
VALIDATION_SHARE = 0.1
MOST_VALIDATION = 5_000


@dataclass(frozen=True)
class DataParts:
    """Training images, and validation and test images where the files have such splits."""

    train: ImageSet
    class_names: tuple[str, ...]
    source: str
    """Where the images came from, in words."""
    validation: ImageSet | None = None
    test: ImageSet | None = None


def to_image_set(images: Any, targets: Any, where: str, num_classes: int | None = None) -> ImageSet:
    """Check images and class indices and convert them to an `ImageSet`.

    Args:
        images: A uint8 array (N,H,W) or (N,H,W,C), or a uint8 tensor (N,C,H,W), C = 1 or 3.
        targets: Integers (N,), or (N,1) as in Keras, 0 to `num_classes` − 1.
        where: Where they come from, for messages.
        num_classes: None accepts any class index of 0 or more.

    Raises:
        ValueError: If type, shape, number or range differs.
    """
    stored = images
    if not isinstance(images, Tensor):
        array = np.asarray(images)
        array = array[..., None] if array.ndim == 3 else array
        stored = array
        if array.dtype == np.uint8 and array.ndim == 4:
            # Copied: arrays of files are read-only, and cutting batches from a strided view would be slow.
            stored = torch.from_numpy(array.transpose(0, 3, 1, 2).copy(order="C"))
    fits = isinstance(stored, Tensor) and stored.dtype == torch.uint8
    if not fits or stored.ndim != 4 or stored.shape[1] not in (1, 3):
        raise ValueError(
            f"{where}: expected uint8 images N×H×W or N×H×W×C (as tensors N×C×H×W) with 1 or 3 channels, "
            f"got {stored.dtype} {tuple(np.shape(images))}"
        )
    classes = np.asarray(targets)
    if classes.shape == (len(stored), 1):
        classes = classes[:, 0]
    if classes.shape != (len(stored),) or not len(stored):
        raise ValueError(
            f"{where}: expected one class index per image, got {classes.shape} for {len(stored)} images"
        )
    if not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(f"{where}: expected integer class indices, got {classes.dtype}")
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        raise ValueError(
            f"{where}: expected class indices 0 to {(num_classes or high + 1) - 1}, got {low} to {high}"
        )
    return ImageSet(stored.contiguous(), torch.from_numpy(classes.astype(np.int64)))


def hold_out(targets: Index, count: int, seed: int) -> tuple[Index, Index]:
    """Return positions kept and held out, ascending, with the classes in proportion.

    The last image of a class is never held out.

    Args:
        targets: Class indices int64 (N,).
        count: Images to hold out, 1 to N − 1; fewer are held out where classes have one image only.
        seed: Draws which ones.

    Raises:
        ValueError: If the count is out of range, or every class has one image only.

    >>> kept, held = hold_out(np.array([0, 0, 0, 1, 1, 1]), 2, seed=0)
    >>> len(kept), len(held)
    (4, 2)
    """
    if not 1 <= count < len(targets):
        raise ValueError(
            f"cannot hold out {count} of {len(targets)} images; expected 1 to {len(targets) - 1}"
        )
    present, sizes = np.unique(targets, return_counts=True)
    quotas = np.minimum(_proportional(sizes, count), sizes - 1)
    if not quotas.any():
        raise ValueError(
            f"{len(present)} classes with one image each cannot be split; add images of each class"
        )
    held = _ranks_in_class(targets, seed) < quotas[np.searchsorted(present, targets)]
    return np.flatnonzero(~held), np.flatnonzero(held)


def scikit_learns_split(targets: Index, count: int, seed: int) -> tuple[Index, Index]:
    """Return what scikit-learn's stratified `train_test_split` of positions returns, without its import.

    The digits were always divided by it. For new data `hold_out` is meant.

    Args:
        targets: Class indices int64 (N,).
        count: Images of the second part, fewer than N, at least one per class in both parts.
        seed: Its `random_state`.

    >>> kept, held = scikit_learns_split(np.array([0, 0, 0, 1, 1, 1]), 2, seed=0)
    >>> kept.tolist(), held.tolist()
    ([2, 5, 1, 3], [0, 4])
    """
    draw = np.random.RandomState(seed)
    classes, sizes = np.unique(targets, return_counts=True)
    kept_sizes = _drawn_quotas(sizes, len(targets) - count, draw)
    held_sizes = _drawn_quotas(sizes - kept_sizes, count, draw)
    kept, held = [], []
    for value, keep, hold in zip(classes, kept_sizes, held_sizes, strict=True):
        members = draw.permutation(np.flatnonzero(targets == value))
        kept.append(members[:keep])
        held.append(members[keep : keep + hold])
    return draw.permutation(np.concatenate(kept)), draw.permutation(np.concatenate(held))


def _drawn_quotas(sizes: Index, count: int, draw: np.random.RandomState) -> Index:
    """Divide `count` in proportion to sizes: the largest remainders get one more, drawn among equal ones."""
    exact = sizes / sizes.sum() * count
    quotas: Index = np.floor(exact).astype(np.int64)
    left, remainders = count - int(quotas.sum()), exact - quotas
    for remainder in np.unique(remainders)[::-1]:
        if left == 0:
            break
        (alike,) = np.nonzero(remainders == remainder)
        more = min(left, len(alike))
        quotas[draw.choice(alike, size=more, replace=False)] += 1
        left -= more
    return quotas


def balanced_subset(targets: Index, count: int, seed: int) -> Index:
    """Return the positions of `count` images, ascending, equally many per class as far as they reach.

    With one seed, a smaller subset lies within a larger one.

    Raises:
        ValueError: If there are fewer images than asked for.

    >>> balanced_subset(np.array([0, 0, 0, 0, 1, 1]), 4, seed=0).size
    4
    """
    if not 1 <= count <= len(targets):
        raise ValueError(f"expected a subset of 1 to {len(targets)} training images, got {count}")
    order: Index = np.lexsort((targets, _ranks_in_class(targets, seed)))
    return np.sort(order[:count])


def validation_count(num_images: int) -> int:
    """Return how many training images select settings: a tenth, at most 5,000, at least 1."""
    return max(1, min(round(VALIDATION_SHARE * num_images), MOST_VALIDATION))


def _ranks_in_class(targets: Index, seed: int) -> Index:
    """Number the images of each class 0, 1, … in an order drawn by the seed."""
    order = np.random.default_rng(seed).permutation(len(targets))
    by_class = order[np.argsort(targets[order], kind="stable")]
    sorted_targets = targets[by_class]
    starts = np.searchsorted(sorted_targets, sorted_targets, side="left")
    ranks = np.empty(len(targets), dtype=np.int64)
    ranks[by_class] = np.arange(len(targets)) - starts
    return ranks


def _proportional(sizes: Index, count: int) -> Index:
    """Divide `count` in proportion to sizes: integer parts first, then the largest remainders."""
    exact = sizes * count / sizes.sum()
    shares: Index = np.floor(exact).astype(np.int64)
    largest = np.argsort(-(exact - shares), kind="stable")[: count - int(shares.sum())]
    shares[largest] += 1
    return shares
