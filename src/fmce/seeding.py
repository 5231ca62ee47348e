"""Every seed formula of the package. They decide all recorded results and must not change.

A draw's seed follows from the run's seed and its place in the training, so resuming needs no generator states.
"""

import random

import numpy as np
import torch

_TORCH_SEEDS = 2**63  # torch takes seeds below


def seed_epoch(seed: int, epoch: int, rank: int = 0) -> int:
    """Seed Python's, NumPy's and torch's generators for one epoch of one process.

    Whatever an epoch draws depends on (seed, epoch, rank) alone, so a run that is killed and resumes
    at an epoch's beginning draws the same. The 63-bit number that all were seeded with is returned.

    Args:
        seed: The run's seed, 0 or more.
        epoch: 1-based epoch, or 0 for what comes before the first: initial weights.
        rank: Index of the process among those that train together.

    Raises:
        ValueError: If an argument is negative.

    >>> seed_epoch(0, 1) == torch.initial_seed() == epoch_seed(0, 1)
    True
    """
    mixed = epoch_seed(seed, epoch, rank)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)  # noqa: NPY002  (user code may draw from the global generator)
    torch.manual_seed(mixed)
    return mixed


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """Return the number that `seed_epoch` seeds with, and seed nothing.

    >>> epoch_seed(0, 1), epoch_seed(0, 2), epoch_seed(0, 1, rank=1)
    (2918264622725855778, 8597659618385908031, 1554199118406742183)
    """
    if min(seed, epoch, rank) < 0:
        raise ValueError(f"expected seed, epoch and rank ≥ 0, got {seed}, {epoch}, {rank}")
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1, np.uint64)[0] >> 1)


def image_epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of an epoch's image order and of the flips and shifts of its images.

    >>> image_epoch_seed(0, 1), image_epoch_seed(1, 1)
    (1, 2177342782468422678)
    """
    # The golden-ratio step of 64-bit hashes: neighbouring seeds get unlike epochs.
    return (seed * 0x9E3779B97F4A7C15 + epoch) % _TORCH_SEEDS


def map_epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of an epoch's order of feature maps.

    >>> map_epoch_seed(0, 1), map_epoch_seed(1, 1)
    (1, 1000004)
    """
    return (seed * 1_000_003 + epoch) % _TORCH_SEEDS


def pool_order_seed(seed: int, turn: int) -> int:
    """Return the seed of the order of images in one pass (0-based) over a pool.

    >>> pool_order_seed(0, 1), pool_order_seed(1, 1)
    (1, 7368788)
    """
    return (seed * 7_368_787 + turn) % _TORCH_SEEDS


def augmentation_seed(seed: int, step: int) -> int:
    """Return the seed of the augmentation of one 0-based training step.

    >>> augmentation_seed(0, 1), augmentation_seed(1, 1)
    (7920, 1007923)
    """
    return (seed * 1_000_003 + 7919 * step + 1) % _TORCH_SEEDS


def validation_scenes_seed(seed: int) -> int:
    """Return the seed of built-in validation scenes, which share no scene with the training's.

    >>> validation_scenes_seed(7)
    1000010
    """
    return seed + 1_000_003
