"""CQI by hand and against a plain loop."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmce import cqi


def plain_cqi(smoothed, window):
    values = [math.nan]
    for m in range(2, len(smoothed) + 1):
        count = min(window, m - 1)
        changes = [abs(smoothed[i - 1] - smoothed[i - 2]) for i in range(m - count + 1, m + 1)]
        values.append(sum(changes) / count)
    return values


def test_cqi_is_undefined_at_epoch_1():
    assert math.isnan(cqi([1.0])[0])
    assert np.isnan(cqi([3.0, 2.0, 1.0])).tolist() == [True, False, False]


def test_cqi_averages_the_last_changes_by_hand():
    # changes 4, 2, 1, 0, 3; means of at most the last three
    result = cqi([10.0, 6.0, 4.0, 3.0, 3.0, 6.0], window=3)
    assert result[1:].tolist() == [4.0, 3.0, 7 / 3, 1.0, 4 / 3]


def test_default_window_is_five_epochs():
    smoothed = np.cumsum(np.arange(12.0))
    assert cqi(smoothed)[-1] == (7 + 8 + 9 + 10 + 11) / 5


@given(
    smoothed=st.lists(st.floats(0, 1e6), min_size=1, max_size=40),
    window=st.integers(1, 60),
)
def test_cqi_equals_a_plain_loop(smoothed, window):
    np.testing.assert_allclose(cqi(smoothed, window), plain_cqi(smoothed, window), rtol=1e-12)


def test_a_flat_tail_has_exactly_zero_cqi():
    smoothed = [0.3, 0.1, 0.7] + [0.1] * 8
    assert cqi(smoothed)[-3:].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("window", [1, 2, 7, 20])
def test_cqi_never_exceeds_the_largest_change(window):
    smoothed = [0.1, 0.4] * 10
    assert np.nanmax(cqi(smoothed, window)) <= 0.4 - 0.1


@pytest.mark.parametrize("window", [0, -1, 2.0, "5", True, None])
def test_a_window_that_is_no_whole_number_above_0_is_refused(window):
    with pytest.raises(ValueError, match="window must be a whole number of at least 1"):
        cqi([1.0, 2.0], window)


def test_numpy_integers_and_huge_windows_are_accepted():
    expected = plain_cqi([3.0, 2.0, 1.5], 2)
    np.testing.assert_array_equal(cqi([3.0, 2.0, 1.5], np.int64(2)), expected)
    np.testing.assert_array_equal(cqi([3.0, 2.0, 1.5], sys.maxsize * 4), expected)


def test_non_finite_smoothed_losses_are_refused():
    with pytest.raises(ValueError, match="smoothed must be finite; got nan at epoch 2"):
        cqi([1.0, math.nan])
