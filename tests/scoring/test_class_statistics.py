"""Statistics of features: what they show, and what they do not depend on."""

import math

import numpy as np
import pytest

from fmce.scoring.class_statistics import CLASS_STATISTICS, class_statistics
from fmce.scoring.free_statistics import FREE_STATISTICS, free_statistics


def blobs(apart, count=300, width=12, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return rng.normal(size=(count, width)) + apart * np.eye(classes, width)[labels], labels


def test_every_statistic_moves_monotonically_as_classes_come_apart():
    found = [class_statistics(*blobs(apart)) for apart in (1, 2, 4, 8)]
    for name in (*CLASS_STATISTICS, "probe_error"):
        # Low quantiles of margins hardly move while classes overlap.
        steps = np.diff([one[name] for one in found])
        assert (steps > -0.1).all() or (steps < 0.1).all(), name
        assert abs(found[-1][name] - found[0][name]) > 0.3, name


@pytest.mark.parametrize("statistics", [class_statistics, lambda x, _: free_statistics(x)])
def test_order_and_scale_of_channels_do_not_matter(statistics):
    features, labels = blobs(2)
    expected = statistics(features, labels)
    turned = statistics(1000 * features[:, ::-1], labels + 7)
    assert turned == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_nc1_is_the_log_of_scatter_within_classes_over_that_between():
    features = np.array([[0.0, 0], [2, 0], [0, 3], [2, 3]])
    # Classes differ by 3 in the second channel, rows within them by 2 in the first.
    expected = math.log(1 / 2.25)
    assert class_statistics(features, [0, 0, 1, 1])["nc1"] == pytest.approx(expected)


def test_more_channels_than_rows_are_no_trouble():
    features, labels = blobs(3, count=60, width=200)
    assert all(map(math.isfinite, class_statistics(features, labels).values()))
    assert all(map(math.isfinite, free_statistics(features).values()))


@pytest.mark.parametrize(
    "features",
    [np.full((40, 3), np.nan), np.ones((40, 3)), np.zeros((40, 3)), np.full((40, 3), np.inf)],
)
def test_what_tells_nothing_is_nan(features):
    assert all(map(math.isnan, class_statistics(features, np.arange(40) % 4).values()))
    assert all(map(math.isnan, free_statistics(features).values()))


@pytest.mark.parametrize("labels", [np.zeros(40, int), np.arange(40)])
def test_one_class_or_a_class_per_row_tell_nothing(labels):
    found = class_statistics(np.random.default_rng(0).normal(size=(40, 3)), labels)
    assert set(found) == {*CLASS_STATISTICS, "probe_error"}
    assert all(map(math.isnan, found.values()))


def test_classes_with_a_single_row_are_left_out():
    features, labels = blobs(2)
    more = np.vstack([features, [[99.0] * 12]]), np.append(labels, 77)
    assert class_statistics(*more)["nc1"] == pytest.approx(
        class_statistics(features, labels)["nc1"]
    )


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"features \(N, D\) and labels \(N,\)"):
        class_statistics(np.zeros((4, 2)), [0, 1])
    with pytest.raises(ValueError, match=r"features \(N, D\)"):
        free_statistics(np.zeros(4))


def test_the_effective_rank_is_rankme():
    features, _ = blobs(0, count=200)
    values = np.linalg.svd(features - features.mean(0), compute_uv=False)
    shares = values / values.sum()
    expected = -(shares * np.log(shares)).sum()
    assert free_statistics(features)["effective_rank"] == pytest.approx(expected, rel=1e-6)
    assert set(free_statistics(features)) == set(FREE_STATISTICS)
