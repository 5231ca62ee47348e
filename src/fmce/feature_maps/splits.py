"""Which feature maps train an FMCE-Net and which test it.

The number of a map is (run · K + phase − 1) · N + image for K phases and N images: one flat index over all
runs, phases and images.
"""

from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from fmce.config.choices import Split


class MapSplit(NamedTuple):
    """Numbers of the maps to train on and to test on, int64, each ascending."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def split_maps(
    kind: Split,
    *,
    num_images: int,
    num_phases: int,
    num_runs: int = 1,
    test_fraction: float = 0.25,
    seed: int = 0,
) -> MapSplit:
    """Split the maps of `num_runs` runs into train and test.

    Args:
        kind: "map" is the paper's random split, stratified by phase and run; both sides share images and
            checkpoints. "image" holds out images, "run" holds out runs. "test" trains on all maps; those
            of the test images, which have no numbers here, are the test maps.
        num_images: N, training images of the original task.
        num_phases: K.
        num_runs: Training runs.
        test_fraction: Fraction of maps, images or runs to hold out, in (0, 1); at least one of them.
        seed: Draws the split.

    Returns:
        Disjoint train and test numbers; for "test" the latter is empty.

    Raises:
        ValueError: If the kind is unknown, the fraction lies outside (0, 1), or there is too little to split.

    >>> split = split_maps("image", num_images=4, num_phases=2)
    >>> len(split.train), len(split.test)
    (6, 2)
    """
    if kind not in get_args(Split):
        raise ValueError(f"split must be one of {', '.join(get_args(Split))}, got {kind!r}")
    if not 0 < test_fraction < 1:
        raise ValueError(
            f"test_fraction must be between 0 and 1, both excluded, got {test_fraction}"
        )
    counts = (num_images, num_phases, num_runs)
    if min(counts) < 1:
        raise ValueError(f"expected at least one image, phase and run, got {counts}")
    draw = np.random.default_rng(seed)
    held_out = np.zeros((num_runs, num_phases, num_images), dtype=bool)
    if kind == "image":
        held_out[:, :, _draw_held_out(num_images, test_fraction, draw, "images")] = True
    elif kind == "run":
        held_out[_draw_held_out(num_runs, test_fraction, draw, "runs")] = True
    elif kind == "map":
        for run_and_phase in held_out.reshape(-1, num_images):
            run_and_phase[_draw_held_out(num_images, test_fraction, draw, "images")] = True
    flat = held_out.reshape(-1)
    return MapSplit(np.flatnonzero(~flat), np.flatnonzero(flat))


def _draw_held_out(
    total: int, fraction: float, draw: np.random.Generator, what: str
) -> NDArray[np.int64]:
    if total < 2:
        raise ValueError(f"splitting by {what} needs at least 2 {what}, got {total}")
    count = min(max(1, round(total * fraction)), total - 1)
    return draw.permutation(total)[:count]
