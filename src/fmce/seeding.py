"""Seeds that make a resumed training identical to an uninterrupted one without saving generator states."""

import random

import numpy as np
import torch


def seed_epoch(seed: int, epoch: int, rank: int = 0) -> int:
    """Seed Python's, NumPy's and torch's generators for one epoch of one process.

    Whatever an epoch draws depends on (seed, epoch, rank) alone, so a run that is killed and starts
    again at an epoch's beginning draws the same. Epoch 0 is the time before training: weights.

    Args:
        seed: the run's seed, 0 or more.
        epoch: 1-based epoch, or 0 for what comes before the first.
        rank: index of the process among those that train together.

    Returns:
        The 63-bit number all generators were seeded from; use it for generators of your own.

    Raises:
        ValueError: an argument is negative.

    >>> seed_epoch(0, 1) == seed_epoch(0, 1), seed_epoch(0, 1) == seed_epoch(0, 2)
    (True, False)
    """
    mixed = epoch_number(seed, epoch, rank)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)  # noqa: NPY002  (user code may draw from the global generator)
    torch.manual_seed(mixed)
    return mixed


def epoch_number(seed: int, epoch: int, rank: int = 0) -> int:
    """Return the number that `seed_epoch` seeds with, and seed nothing."""
    if min(seed, epoch, rank) < 0:
        raise ValueError(f"expected seed, epoch and rank ≥ 0, got {seed}, {epoch}, {rank}")
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1, np.uint64)[0] >> 1)
