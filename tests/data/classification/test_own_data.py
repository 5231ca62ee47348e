"""Data from a function of the user's own."""

import sys

import pytest
import torch

from fmce.data.classification.classification import load_classification

MODULE = """
import numpy as np, torch
from fmce.data.classification.classification import digits
def arrays(root, image_size):
    x = np.full((40, 6, 5, 3), image_size, np.uint8)
    y = np.arange(40) % 4
    return {"train": (x, y), "test": (x[:8] + 1, y[:8]), "class_names": list("abcd")}
def tensors(**known):
    assert set(known) == {"root", "image_size", "split_seed"}
    x = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).expand(40, 1, 3, 2)
    return {"train": (x, [i % 2 for i in range(40)])}
def whole(split_seed):
    return digits(split_seed)
def floats():
    return {"train": (np.zeros((4, 2, 2)), [0, 1, 0, 1])}
def nothing():
    return None
def unpaired():
    return {"train": np.zeros((4, 2, 2), np.uint8)}
def another_argument(root, fold):
    return {}
def strange_class():
    x = np.zeros((8, 2, 2), np.uint8)
    return {"train": (x, np.arange(8) % 2), "test": (x, np.arange(8) % 3)}
def three():
    return {"train": (np.zeros((3, 2, 2), np.uint8), [0, 1, 1])}
def two_colours():
    x = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3)).astype(np.uint8)
    x[..., 2] = 9
    return {"train": (x, np.arange(40) % 4)}
def misspelt():
    return {"train": (np.zeros((4, 2, 2), np.uint8), [0, 1, 0, 1]), "val": ()}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_data_for_test.py").write_text(MODULE)
    (tmp_path / "broken_data_for_test.py").write_text("import not_there_for_test")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_data_for_test", raising=False)
    return "own_data_for_test"


def test_arrays_of_each_split_become_images_and_targets(own):
    data = load_classification(f"{own}:arrays", image_size=7)
    assert data.train.images.shape == (36, 3, 6, 5)
    assert data.train.images.unique().tolist() == [7]
    assert data.test.images.unique().tolist() == [8]
    assert data.validation.targets.bincount().tolist() == [1, 1, 1, 1]
    assert data.class_names == tuple("abcd")
    assert data.mean == pytest.approx((7 / 255,) * 3)


def test_an_empty_channel_is_not_divided_by_its_deviation(own):
    data = load_classification(f"{own}:two_colours")
    assert data.std[:2] != (1.0, 1.0)
    assert (data.mean[2], data.std[2]) == (pytest.approx(9 / 255), 1.0)


def test_splits_left_out_are_drawn_from_the_training_images(own):
    data = load_classification(f"{own}:tensors", split_seed=1)
    parts = [data.train, data.validation, data.test]
    assert [len(part) for part in parts] == [29, 3, 8]
    assert data.test.targets.bincount().tolist() == [4, 4]
    levels = torch.cat([p.images[:, 0, 0, 0] for p in parts])
    assert sorted(levels.tolist()) == list(range(40))
    assert data.class_names == ("0", "1")


def test_whole_data_sets_are_taken_as_they_are(own):
    data = load_classification(f"{own}:whole", split_seed=2, train_images=20)
    assert data.name == "digits"
    assert len(data.train) == 20


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("floats", "floats, train: expected uint8 images .* got float64"),
        ("nothing", 'returned a NoneType; expected ClassificationData, or a mapping with "train"'),
        ("unpaired", r"expected 'train': \(images, targets\), got a ndarray"),
        ("misspelt", "unknown key 'val'; choices: train, validation, test, class_names"),
        ("another_argument", "needs the argument 'fold', but .* root, image_size, split_seed"),
        ("strange_class", r"test: classes \[2\] have no training images"),
        ("three", "2 classes with one image each cannot be split"),
        ("gone", "expected a function, got 'own_data_for_test:gone'"),
    ],
)
def test_functions_that_return_something_else_are_refused(own, function, message):
    with pytest.raises(ValueError, match=message):
        load_classification(f"{own}:{function}")


def test_modules_that_cannot_be_imported_are_told_from_those_that_lack_something(own):
    with pytest.raises(ValueError, match=r"cannot import module 'no_such_module'.*PYTHONPATH"):
        load_classification("no_such_module:f")
    with pytest.raises(ModuleNotFoundError, match="not_there_for_test"):
        load_classification("broken_data_for_test:f")
