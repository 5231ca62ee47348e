"""Which images are held out and which are kept, class by class, from a recorded seed.

Not given in the papers, which name no validation images and no subsets.
"""

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]

# Not given in the paper: a tenth of the training images, at most 5,000, select settings such as RAF.
VALIDATION_SHARE = 0.1
MOST_VALIDATION = 5_000


def hold_out(targets: Index, count: int, seed: int) -> tuple[Index, Index]:
    """Split images in two with the classes in proportion; the last image of a class is never held out.

    Args:
        targets: Class indices int64 (N,).
        count: Images to hold out, 1 to N − 1; fewer are held out where classes have one image only.
        seed: Draws which ones.

    Returns:
        Positions kept and positions held out, each ascending.

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


def balanced_subset(targets: Index, count: int, seed: int) -> Index:
    """Choose images, equally many per class as far as the classes reach.

    With one seed, a smaller subset lies within a larger one.

    Args:
        targets: Class indices int64 (N,).
        count: Images to choose, 1 to N.
        seed: Draws which ones.

    Returns:
        Positions, ascending.

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
