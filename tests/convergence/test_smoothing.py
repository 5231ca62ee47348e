"""Smoothing against pandas, hand-worked values and the facts the method notes state."""

import math
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmce import smooth_losses

METHODS = ("ema", "debiased_ema", "two_tap", "none")
CURVE = 2.3 * np.exp(-np.arange(80) / 9) + np.random.default_rng(0).uniform(0, 0.05, 80)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.85, 0.999])
def test_ema_equals_pandas_unadjusted_ewm(decay):
    expected = pd.Series(CURVE).ewm(alpha=1 - decay, adjust=False).mean()
    np.testing.assert_allclose(smooth_losses(CURVE, decay), expected, rtol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.85, 0.999])
def test_debiased_ema_equals_pandas_adjusted_ewm(decay):
    expected = pd.Series(CURVE).ewm(alpha=1 - decay, adjust=True).mean()
    np.testing.assert_allclose(smooth_losses(CURVE, decay, "debiased_ema"), expected, rtol=1e-12)


def test_two_tap_mixes_raw_neighbours_as_printed():
    expected = [4.0, 0.75 * 4 + 0.25 * 2, 0.75 * 2 + 0.25 * 1]
    assert smooth_losses([4, 2, 1], 0.75, "two_tap").tolist() == expected


def test_none_returns_a_copy():
    smoothed = smooth_losses(CURVE, method="none")
    assert np.array_equal(smoothed, CURVE)
    assert not np.shares_memory(smoothed, CURVE)


def test_ema_falls_by_at_most_0163_nats_of_log_loss_an_epoch():
    smoothed = smooth_losses([2.3] + [0.0] * 59)
    falls = -np.diff(np.log(smoothed))
    np.testing.assert_allclose(falls, -math.log(0.85), rtol=1e-12)
    assert -math.log(0.85) == pytest.approx(0.163, abs=5e-4)


@pytest.mark.parametrize("method", METHODS)
def test_result_is_float64_of_the_same_length_and_leaves_the_input(method):
    losses = np.array([3, 2, 1, 1], dtype=np.int32)
    smoothed = smooth_losses(losses, method=method)
    assert smoothed.dtype == np.float64
    assert smoothed.shape == (4,)
    assert losses.tolist() == [3, 2, 1, 1]


@pytest.mark.parametrize("method", METHODS)
@given(
    losses=st.lists(st.floats(0, sys.float_info.max), min_size=1, max_size=30),
    decay=st.floats(0, 1, exclude_max=True),
)
def test_smoothed_losses_stay_within_the_losses_so_far(method, losses, decay):
    smoothed = smooth_losses(losses, decay, method)
    assert (smoothed >= np.minimum.accumulate(losses)).all()
    assert (smoothed <= np.maximum.accumulate(losses)).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_flat_curve_stays_exactly_flat(method):
    assert set(smooth_losses([0.1] * 50, 0.7, method)) == {0.1}


def one_after_the_other(losses, decay, debiased):
    """The average by its definition, limited to the range of its two values."""
    smoothed, past = [float(losses[0])], 1.0
    for loss in losses[1:].tolist():
        weight = decay * past / (1 + decay * past) if debiased else decay
        past = 1 + decay * past
        mean = weight * smoothed[-1] + (1 - weight) * loss
        ends = (smoothed[-1], loss)
        smoothed.append(min(max(mean, min(ends)), max(ends)))
    return smoothed


def long_curves():
    draw, epochs = np.random.default_rng(3), np.arange(36_000)
    falling = 2.3 * np.exp(-epochs / 5_000) * (1 + 0.01 * draw.random(epochs.size))
    yield "falling", falling
    yield "rounded, so that limits hold here and there", np.round(falling, 3)
    yield "flat in its middle", np.where(abs(epochs - 20_000) < 5_000, 0.5, falling)
    yield "flat at its end", np.where(epochs > 24_000, falling[24_000], falling)
    yield "a step", np.where(epochs, 0.1, 2.3)
    yield "huge and tiny", falling * 10.0 ** draw.integers(-300, 300, epochs.size)
    yield "signed, with zeros", np.where(draw.random(epochs.size) < 0.3, 0.0, falling - 1)


@pytest.mark.parametrize("decay", [0.0, 0.85, 0.999])
def test_long_curves_are_averaged_as_one_epoch_after_the_other_to_the_last_bit(decay):
    for name, losses in long_curves():
        average = smooth_losses(losses, decay)
        assert average.tolist() == one_after_the_other(losses, decay, False), name
        debiased = smooth_losses(losses, decay, "debiased_ema")
        assert debiased.tolist() == one_after_the_other(losses, decay, True), name
        quicker = smooth_losses(losses, decay, "debiased_ema", known=average)
        assert np.array_equal(quicker, debiased), name


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan, "0.85", True, None, 10**400])
def test_decay_outside_0_to_1_is_refused(decay):
    with pytest.raises(ValueError, match="0 <= decay < 1"):
        smooth_losses([1.0, 2.0], decay)


def test_an_unknown_method_names_the_choices():
    with pytest.raises(ValueError, match=r"ema, debiased_ema, two_tap, none; got 'median'"):
        smooth_losses([1.0], method="median")


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([], "at least one"),
        (3.0, r"1-d.*shape \(\)"),
        ([[1.0, 2.0]], r"1-d.*shape \(1, 2\)"),
        ([[1.0], [2.0, 3.0]], "1-d sequence of numbers"),
        (["1.0", "2.0"], "real numbers; got <U3"),
        ([1.0, None], "real numbers; got object"),
        ([True, False], "real numbers; got bool"),
        ([1j], "real numbers; got complex"),
        ([1.0, math.nan], "finite; got nan at epoch 2"),
        ([1.0, 2.0, math.inf], "finite; got inf at epoch 3"),
    ],
)
def test_what_is_no_vector_of_finite_numbers_is_refused(losses, message):
    with pytest.raises(ValueError, match=message):
        smooth_losses(losses)
