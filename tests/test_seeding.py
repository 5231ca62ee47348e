"""One epoch's seed decides all generators, and nothing before it does."""

import random

import numpy as np
import pytest
import torch

from fmce.seeding import seed_epoch


def draws():
    return random.random(), float(np.random.rand()), torch.rand(1).item()  # noqa: NPY002


def test_the_same_epoch_draws_the_same_whatever_was_drawn_before():
    seed_epoch(3, 7)
    first = draws()
    draws()
    seed_epoch(3, 7)
    assert draws() == first


@pytest.mark.parametrize("other", [(4, 7, 0), (3, 8, 0), (3, 7, 1), (7, 3, 0)])
def test_another_seed_epoch_or_rank_draws_otherwise(other):
    number = seed_epoch(3, 7)
    first = draws()
    assert seed_epoch(*other) != number
    assert not set(draws()) & set(first)


def test_the_number_fits_torch_and_is_given_back():
    number = seed_epoch(0, 1)
    assert 0 <= number < 2**63
    assert torch.initial_seed() == number


@pytest.mark.parametrize("arguments", [(-1, 1), (0, -1), (0, 1, -1)])
def test_negative_numbers_are_refused(arguments):
    with pytest.raises(ValueError, match="seed, epoch and rank ≥ 0"):
        seed_epoch(*arguments)
