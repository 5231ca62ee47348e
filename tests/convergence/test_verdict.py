"""The verdict on a curve: states, epochs, intervals and bad input."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmce.convergence.verdict import judge_curve

T = np.arange(60)
FLAT = 2.3 * np.exp(-T / 3) + 0.05
COSINE = 1e-3 * 0.5 * (1 + np.cos(np.pi * T / 60))
CONSTANT = np.full(60, 1e-3)


def noisy(losses, share=0.01, seed=0):
    return losses * np.exp(share * np.random.default_rng(seed).standard_normal(len(losses)))


def settled(losses, threshold):
    moving = np.flatnonzero(np.abs(np.diff(losses)) > threshold)
    return int(moving[-1]) + 2 if moving.size else 1


@pytest.mark.parametrize("threshold", [1e-2, 2e-3, 1e-4])
def test_a_noiseless_curve_rests_where_its_steps_say(threshold):
    verdict = judge_curve(FLAT, threshold=threshold)
    assert verdict.epoch == verdict.low == verdict.high == settled(FLAT, threshold)
    assert verdict.noise < 1e-5


def test_a_step_has_no_lag():
    assert judge_curve([2.3] + [0.001] * 59, threshold=2e-3).epoch == 2


def test_noise_widens_the_interval_and_moves_the_epoch_little():
    truth = settled(FLAT, 2e-3)
    for seed in range(5):
        verdict = judge_curve(noisy(FLAT, seed=seed), threshold=2e-3)
        assert abs(verdict.epoch - truth) <= 3
        assert verdict.low <= verdict.epoch <= verdict.high
        assert verdict.noise == pytest.approx(0.01, rel=0.5)


def test_one_spike_does_not_move_the_epoch():
    spiked = FLAT.copy()
    spiked[45] *= 1.5
    assert abs(judge_curve(spiked, threshold=2e-3).epoch - settled(FLAT, 2e-3)) <= 1


def test_rest_at_a_constant_rate_is_rest_at_this_rate():
    verdict = judge_curve(FLAT, CONSTANT)
    assert verdict.state == "at_rest"
    assert "lower" in verdict.advice


def test_rest_before_the_rate_goes_down_is_convergence():
    verdict = judge_curve(FLAT, COSINE)
    assert (verdict.state, verdict.advice) == ("converged", "stop")


def test_rest_only_as_the_rate_goes_to_zero_cannot_be_told():
    losses = 2.3 * np.exp(-T / 5) + 0.3 * COSINE / 1e-3 + 0.02
    verdict = judge_curve(losses, COSINE)
    assert verdict.state == "undecided"
    assert verdict.because.startswith("schedule")


def test_a_plateau_before_a_rate_drop_is_no_convergence_when_the_rate_is_known():
    rates = np.where(T < 30, 0.1, 0.01)
    losses = 1.5 * np.exp(-T / 4) + 0.5 - (T >= 30) * 0.35 * (1 - np.exp(-(T - 30).clip(0) / 2))
    assert judge_curve(losses[:30], rates[:30]).state == "at_rest"
    assert judge_curve(losses[:30]).state == "converged"  # without rates nothing tells them apart
    whole = judge_curve(noisy(losses), rates, threshold=2e-3)
    assert abs(whole.epoch - settled(losses, 2e-3)) <= 2


def test_small_changes_that_add_up_are_no_rest():
    losses = 1.2 - 0.01 * T  # 0.6 in all, 0.01 per epoch
    verdict = judge_curve(losses, COSINE, threshold=0.05)
    assert verdict.state == "undecided"
    assert "together they lowered the loss by 0.59" in verdict.because


def test_a_falling_curve_is_improving_and_says_for_how_long():
    losses = 3 * np.exp(-T / 40)
    verdict = judge_curve(losses, threshold=1e-2)
    assert verdict.state == "improving"
    # 3/40·exp(−t/40) comes down to 0.01 after 81 epochs.
    assert verdict.more_epochs == pytest.approx(81 - 60, abs=2)
    assert verdict.expected_changes[1] == pytest.approx(np.diff(losses)[-1], rel=0.1)
    assert verdict.expected_changes[20] < verdict.expected_changes[5] < 0


def test_a_rising_curve_is_rising():
    assert judge_curve(np.exp(T / 30)).state == "rising"


def test_a_rising_validation_loss_is_overfitting_since_its_lowest_epoch():
    validation = noisy(FLAT + 0.3 * (np.clip(T - 25, 0, None) / 40) ** 2, 0.005)
    verdict = judge_curve(noisy(FLAT), COSINE, validation)
    assert verdict.state == "overfitting"
    assert abs(verdict.epoch - 24) <= 4
    assert verdict.low <= verdict.epoch <= verdict.high


def test_a_flat_validation_loss_is_no_overfitting():
    assert judge_curve(noisy(FLAT), COSINE, noisy(FLAT + 0.1, seed=1)).state == "converged"


def test_noise_that_hides_the_threshold_is_said():
    verdict = judge_curve(noisy(3 * np.exp(-T / 60), 0.2), threshold=0.02)
    assert verdict.state == "undecided"
    assert "noise" in verdict.because


@pytest.mark.parametrize("losses", [[1.0], [3.0, 2.0, 1.0], [2.0, float("nan"), 1.0, 0.5]])
def test_too_few_epochs_are_too_short(losses):
    verdict = judge_curve(losses)
    assert verdict.state == "undecided"
    assert verdict.because.startswith("too short")


@pytest.mark.parametrize("level", [0.7, 0.0, -3.0])
def test_a_constant_curve_is_said_to_be_one(level):
    verdict = judge_curve(np.full(30, level))
    assert (verdict.state, verdict.because) == ("undecided", "the loss never changes")


def test_gaps_are_allowed_and_counted():
    gapped = noisy(FLAT)
    gapped[[5, 12, 30, 31]] = np.nan
    verdict = judge_curve(gapped, threshold=2e-3)
    assert verdict.gaps == 4
    assert "4 epochs have no value" in verdict.because
    assert abs(verdict.epoch - settled(FLAT, 2e-3)) <= 3


def test_negative_losses_are_judged_on_their_own_scale():
    verdict = judge_curve(-FLAT, threshold=2e-3)
    assert abs(verdict.epoch - settled(FLAT, 2e-3)) <= 1


def test_a_window_judges_the_newest_epochs_and_counts_from_the_first():
    long = np.concatenate([FLAT, np.full(200, FLAT[-1])])
    late = noisy(long)
    assert judge_curve(late, threshold=2e-3, window=100).epoch in range(160, 170)
    moving = judge_curve(FLAT[:12], threshold=2e-3, window=10)
    assert moving.state == "improving"


def test_the_three_lines_and_json_have_the_same_fields():
    verdict = judge_curve(noisy(FLAT), COSINE)
    first, second, third = verdict.lines
    assert first.startswith("verdict: converged at epoch")
    assert (second, third) == (f"because: {verdict.because}", "advice:  stop")
    stored = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert {"epoch", "low", "high", "state", "because", "advice"} <= stored.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "at least one number"),
        (([[1.0, 2.0]],), "one number per epoch"),
        ((["a", "b"],), "must be real numbers"),
        (([float("nan")] * 3,), "all are NaN"),
        (([1.0, float("inf")],), "infinity|finite"),
        (([1.0, 2.0], [1.0]), "one value per epoch, 2; got 1"),
        (([1.0, 2.0], [1.0, -1.0]), "learning_rates must be finite and not negative"),
        (([1.0, 2.0], None, [1.0]), "validation must hold one value per epoch"),
        (([1.0, 2.0], None, None, 0.0), "threshold must be a positive number"),
    ],
)
def test_bad_input_is_a_value_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        judge_curve(*arguments)


curves = st.builds(
    lambda tau, floor, seed, share: noisy(2.3 * np.exp(-T / tau) + floor, share, seed),
    st.floats(2, 8),
    st.floats(0.05, 0.3),
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.003, 0.01]),
)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(curves, st.integers(-30, 30))
def test_scaling_losses_and_threshold_changes_nothing(losses, exponent):
    scale = 2.0**exponent
    here, there = (
        judge_curve(losses, threshold=2e-3),
        judge_curve(scale * losses, threshold=scale * 2e-3),
    )
    assert (here.state, here.epoch, here.low, here.high) == (
        there.state,
        there.epoch,
        there.low,
        there.high,
    )


@settings(max_examples=15, deadline=None, derandomize=True)
@given(curves, st.integers(3, 25))
def test_a_start_at_rest_shifts_the_answer(losses, shift):
    here = judge_curve(losses, threshold=2e-3)
    before = noisy(np.full(shift, losses[0]), here.noise)
    there = judge_curve(np.concatenate([before, losses]), threshold=2e-3)
    assert abs(there.epoch - shift - here.epoch) <= 3 + here.high - here.low


@settings(max_examples=15, deadline=None, derandomize=True)
@given(curves, st.integers(5, 60))
def test_more_epochs_at_rest_leave_a_converged_curve_converged(losses, more):
    here = judge_curve(losses, threshold=2e-3)
    if here.state != "converged":
        return
    floor = float(np.median(losses[-15:]))
    longer = np.concatenate([losses, noisy(np.full(more, floor), here.noise, seed=7)])
    there = judge_curve(longer, threshold=2e-3)
    assert there.state == "converged"
    assert abs(there.epoch - here.epoch) <= 3 + here.high - here.low


@pytest.mark.parametrize("blocks", [2, 7])
def test_a_very_long_curve_is_judged_in_blocks_at_the_same_epoch(blocks):
    epochs = 1000 * blocks - 3
    t = np.arange(epochs)
    losses = 2.3 * np.exp(-t / 300) + 0.05
    threshold = 1e-3 * np.ptp(losses) / blocks
    verdict = judge_curve(losses, np.full(epochs, 1e-3), threshold=threshold)
    truth = settled(losses, threshold)
    assert abs(verdict.epoch - truth) <= 2 * blocks
    assert verdict.low - blocks <= truth
    assert len(verdict.trend) == epochs
    np.testing.assert_allclose(verdict.trend[truth:], losses[truth:], rtol=0.02)
    assert verdict.threshold == threshold


def test_a_trend_that_runs_far_ahead_warns_of_nothing():
    losses = np.concatenate([np.exp(-(np.arange(12.0) ** 2)), [1e-80, 1e-110, 1e-150]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert judge_curve(losses).state in ("improving", "converged", "undecided")
