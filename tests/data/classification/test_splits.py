"""Held-out images and subsets, class by class."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmce.data.classification.splits import (
    balanced_subset,
    hold_out,
    scikit_learns_split,
    validation_count,
)

TARGETS = np.repeat([0, 1, 2], [60, 30, 10])


def test_held_out_images_have_the_classes_in_proportion():
    kept, held = hold_out(TARGETS, 20, seed=0)
    assert np.bincount(TARGETS[held]).tolist() == [12, 6, 2]
    assert sorted([*kept, *held]) == list(range(100))
    assert np.all(np.diff(kept) > 0)
    assert np.all(np.diff(held) > 0)


def test_the_largest_remainders_get_what_whole_parts_leave():
    # 7 of 100: 4.2, 2.1 and 0.7 are 4, 2, 0 and one more for the last.
    _, held = hold_out(TARGETS, 7, seed=0)
    assert np.bincount(TARGETS[held]).tolist() == [4, 2, 1]


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_every_class_keeps_an_image(sizes, share, seed):
    targets = np.repeat(np.arange(len(sizes)), sizes)
    count = round(share * len(targets))
    if max(sizes) == 1 or not 1 <= count < len(targets):
        return
    kept, held = hold_out(targets, count, seed)
    assert set(targets[kept].tolist()) == set(range(len(sizes)))
    assert len(held) <= count
    assert not set(kept) & set(held)


def test_the_seed_alone_decides():
    one, same, other = (hold_out(TARGETS, 20, seed)[1].tolist() for seed in (1, 1, 2))
    assert one == same
    assert one != other


@pytest.mark.parametrize("count", [0, 100, 101])
def test_a_split_with_an_empty_side_is_refused(count):
    with pytest.raises(
        ValueError, match=f"cannot hold out {count} of 100 images; expected 1 to 99"
    ):
        hold_out(TARGETS, count, seed=0)


def test_classes_of_one_image_each_cannot_be_split():
    with pytest.raises(ValueError, match="5 classes with one image each cannot be split"):
        hold_out(np.arange(5), 2, seed=0)


def test_a_subset_is_balanced_as_far_as_the_classes_reach():
    chosen = balanced_subset(TARGETS, 45, seed=0)
    assert np.bincount(TARGETS[chosen]).tolist() == [18, 17, 10]
    assert len(set(chosen.tolist())) == 45


def test_a_smaller_subset_lies_within_a_larger_one():
    small, large = (set(balanced_subset(TARGETS, n, seed=3).tolist()) for n in (20, 50))
    assert small < large
    assert balanced_subset(TARGETS, 100, seed=3).tolist() == list(range(100))


@pytest.mark.parametrize("count", [0, 101])
def test_a_subset_of_images_that_are_not_there_is_refused(count):
    with pytest.raises(ValueError, match=f"1 to 100 training images, got {count}"):
        balanced_subset(TARGETS, count, seed=0)


def test_validation_is_a_tenth_and_at_most_5000():
    assert [validation_count(n) for n in (4, 1000, 60_000)] == [1, 100, 5000]


@pytest.mark.parametrize("count", [10, 37, 180])
@pytest.mark.parametrize("seed", range(6))
def test_scikit_learns_split_is_that_of_scikit_learn(count, seed):
    from sklearn.model_selection import train_test_split

    targets = np.random.default_rng(seed).permutation(np.repeat(np.arange(5), [90, 40, 40, 21, 17]))
    expected = train_test_split(
        np.arange(len(targets)), test_size=count, stratify=targets, random_state=seed
    )
    for ours, theirs in zip(scikit_learns_split(targets, count, seed), expected, strict=True):
        assert ours.tolist() == theirs.tolist()
