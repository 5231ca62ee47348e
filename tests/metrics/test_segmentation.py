"""Segmentation scores against hand-worked values, scikit-learn and a plain numpy loop."""

import doctest
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from fmce.metrics import segmentation as module
from fmce.metrics.segmentation import confusion, segmentation_scores


def _random_labels(seed, num_classes, *, missing=None):
    rng = np.random.default_rng(seed)
    preds = rng.integers(0, num_classes, (3, 7, 9))
    targets = rng.integers(0, num_classes, (3, 7, 9))
    if missing is not None:
        targets[targets == missing] = (missing + 1) % num_classes
    targets[rng.random(targets.shape) < 0.2] = 255
    return preds, targets


def _loop_counts(preds, targets, num_classes):
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    for pred, target in zip(preds.ravel(), targets.ravel(), strict=True):
        if target != 255:
            counts[target, pred] += 1
    return counts


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 6))
def test_counts_agree_with_a_plain_loop_and_scikit_learn(seed, num_classes):
    preds, targets = _random_labels(seed, num_classes)
    counts = confusion(torch.from_numpy(preds), torch.from_numpy(targets), num_classes)
    assert counts.dtype == torch.int64
    np.testing.assert_array_equal(counts, _loop_counts(preds, targets, num_classes))
    known = targets != 255
    np.testing.assert_array_equal(
        counts, confusion_matrix(targets[known], preds[known], labels=range(num_classes))
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 50), st.sampled_from([1, 19, 32, 33, 127, 128, 200]), st.integers(0, 9))
def test_masks_of_bytes_are_counted_at_any_length_and_number_of_classes(length, num_classes, seed):
    rng = np.random.default_rng(seed)
    preds, targets = rng.integers(0, num_classes, (2, length), np.uint8)
    targets[rng.random(length) < 0.3] = 255
    counts = confusion(torch.from_numpy(preds), torch.from_numpy(targets), num_classes)
    np.testing.assert_array_equal(counts, _loop_counts(preds, targets, num_classes))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(3, 6), st.booleans())
def test_scores_agree_with_scikit_learn(seed, num_classes, drop):
    preds, targets = _random_labels(seed, num_classes, missing=1 if drop else None)
    scores = segmentation_scores(
        confusion(torch.from_numpy(preds), torch.from_numpy(targets), num_classes)
    )
    known = targets != 255
    present = np.unique(targets[known])
    expected = jaccard_score(targets[known], preds[known], labels=present, average=None)
    np.testing.assert_allclose([scores.iou[c] for c in present], expected)
    assert scores.miou == pytest.approx(expected.mean())
    assert scores.pixel_accuracy == pytest.approx(accuracy_score(targets[known], preds[known]))


def test_a_class_absent_from_the_truth_is_nan_and_left_out_of_miou():
    # Truth 0 0 0 1, predicted 0 0 2 1: IoU 2/3, 1, and class 2 has no truth.
    counts = confusion(torch.tensor([0, 0, 2, 1]), torch.tensor([0, 0, 0, 1]), 3)
    scores = segmentation_scores(counts)
    assert scores.iou[:2] == pytest.approx((2 / 3, 1.0))
    assert math.isnan(scores.iou[2])
    assert scores.miou == pytest.approx(5 / 6)


def test_a_class_present_but_never_found_counts_as_zero():
    scores = segmentation_scores(confusion(torch.tensor([0, 0]), torch.tensor([0, 1]), 2))
    assert scores.iou == (0.5, 0.0)
    assert scores.miou == 0.25


def test_counts_are_added_over_batches_before_scoring():
    preds, targets = (torch.from_numpy(a) for a in _random_labels(5, 4))
    parts = sum(confusion(p, t, 4) for p, t in zip(preds, targets, strict=True))
    assert torch.equal(parts, confusion(preds, targets, 4))


def test_uint8_masks_do_not_overflow():
    preds = torch.full((4, 4), 18, dtype=torch.uint8)
    assert confusion(preds, preds, 19)[18, 18] == 16


def test_without_a_labelled_pixel_scores_are_nan_and_plain_values_none():
    scores = segmentation_scores(confusion(torch.tensor([0, 1]), torch.tensor([255, 255]), 2))
    assert math.isnan(scores.miou)
    assert math.isnan(scores.pixel_accuracy)
    assert scores.to_dict(["road", "sky"]) == {
        "miou": None,
        "pixel_accuracy": None,
        "pixels": 0,
        "iou": {"road": None, "sky": None},
    }


@pytest.mark.parametrize(
    ("preds", "targets", "message"),
    [
        ([0, 19], [0, 0], "predicted class ids in 0 … 2, got 19"),
        ([0, 255], [0, 255], "predicted class ids in 0 … 2, got 255"),
        ([0, -1], [0, 0], "predicted class ids in 0 … 2, got -1"),
        ([0, 0], [0, 7], "true class ids in 0 … 2, got 7"),
        ([0, 0], [0], "one shape"),
        ([0.0, 1.0], [0, 1], "integer preds"),
    ],
)
def test_wrong_labels_are_refused_by_name(preds, targets, message):
    with pytest.raises(ValueError, match=message):
        confusion(torch.tensor(preds), torch.tensor(targets), 3)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (torch.zeros(2, 3).long(), r"\(C, C\)"),
        (torch.zeros(2, 2), "integer counts"),
        (torch.tensor([[1, -1], [0, 0]]), "at least 0"),
    ],
)
def test_wrong_counts_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        segmentation_scores(counts)


def test_a_wrong_number_of_class_names_is_refused():
    with pytest.raises(ValueError, match="2 class names, got 1"):
        segmentation_scores(torch.eye(2).long()).to_dict(["road"])


def test_the_docstrings_examples_hold():
    assert doctest.testmod(module).failed == 0
