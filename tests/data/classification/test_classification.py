"""The digits: which images train, validate and test."""

import pytest
import torch
from sklearn.datasets import load_digits

from fmce.data.classification.classification import digits, load_classification
from fmce.seeding import seed_epoch

PARTS = ("train", "validation", "test")


def rows(part):
    return [tuple(image.flatten().tolist()) for image in part.images]


def test_the_parts_have_the_sizes_promised():
    data = digits()
    assert [len(getattr(data, p)) for p in PARTS] == [1257, 180, 360]
    assert data.train.images.shape == (1257, 1, 8, 8)
    assert data.train.images.dtype == torch.uint8
    assert data.train.targets.dtype == torch.int64
    assert data.class_names == tuple("0123456789")


def test_the_parts_are_disjoint_and_together_are_all_digits():
    data = digits()
    together = sorted(row for p in PARTS for row in rows(getattr(data, p)))
    pixels = load_digits().data
    assert together == sorted(tuple(round(v * 255 / 16) for v in row) for row in pixels)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_has_the_classes_in_proportion(part):
    data = digits()
    shares = torch.bincount(getattr(data, part).targets) / len(getattr(data, part))
    everything = torch.bincount(torch.from_numpy(load_digits().target)) / 1797
    assert (shares - everything).abs().max() < 0.01


def test_the_runs_seed_does_not_move_an_image_to_another_part():
    seed_epoch(1, 0)
    one = digits()
    seed_epoch(2, 0)
    other = digits()
    for part in PARTS:
        assert torch.equal(getattr(one, part).images, getattr(other, part).images)
    assert not torch.equal(digits(split_seed=1).test.images, one.test.images)


def test_statistics_are_of_the_training_images_alone():
    data = digits()
    values = data.train.images.double() / 255
    assert data.mean == pytest.approx([values.mean().item()] * 3)
    assert data.std == pytest.approx([values.std(correction=0).item()] * 3)


def test_targets_belong_to_their_images():
    data = digits()
    known = {}
    for pixels, target in zip(*load_digits(return_X_y=True), strict=True):
        known[tuple(round(v * 255 / 16) for v in pixels)] = int(target)
    assert [known[r] for r in rows(data.test)] == data.test.targets.tolist()


def test_an_unknown_data_set_names_near_match_and_choices():
    with pytest.raises(ValueError, match=r"did you mean 'digits'.*choose from digits"):
        load_classification("digit")
