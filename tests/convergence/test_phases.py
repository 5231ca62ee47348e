"""Convergence phases: hand-worked curves, the step curve's facts, every error, and JSON."""

import copy
import dataclasses
import json
import math
import pickle

import numpy as np
import pytest

from fmce import PhaseConfig, Phases, find_phases
from fmce.convergence.phases import NoPhasesError

STEP = [2.3] + [0.001] * 59
STEP_MARKERS = (5, 8, 12, 15, 19, 22, 26, 29, 33, 36)
PLAIN = PhaseConfig(num_phases=3, threshold=0.5, smoothing="none", window=1)
# changes 4, 2, 1, 0, 0; log2 progress 0, 1, 2, 3, 3, 3
HALVING = [8.0, 4.0, 2.0, 1.0, 1.0, 1.0]


def test_a_step_curve_gets_the_markers_the_smoother_makes():
    phases = find_phases(STEP, PhaseConfig(threshold=2e-3))
    assert phases.markers == STEP_MARKERS
    assert phases.step_curve_markers == STEP_MARKERS
    assert phases.smoothing_driven is True
    assert phases.smoothing_distance == 0.0
    assert phases.unsmoothed_markers is None  # it is flat long before ten epochs


def test_halving_losses_by_hand():
    phases = find_phases(HALVING, PLAIN)
    # CQI first meets 0.5 at epoch 5; levels of 1, 2 and 3 halvings are met at 2, 3 and 4, and the
    # last marker is the convergence epoch
    assert (phases.start_epoch, phases.convergence_epoch) == (1, 5)
    assert phases.markers == (2, 3, 5)
    assert phases.smoothed == tuple(HALVING)
    assert phases.cqi[1:] == (4.0, 2.0, 1.0, 0.0, 0.0)
    assert math.isnan(phases.cqi[0])


def test_markers_leave_an_epoch_for_each_later_phase():
    # all progress comes at the end, so the levels are met too late for all but the first
    phases = find_phases([8.0, 8.0, 8.0, 1.0, 1.0], PLAIN)
    assert phases.convergence_epoch == 5
    assert phases.markers == (3, 4, 5)


def test_markers_still_increase_when_one_epoch_passes_several_levels():
    phases = find_phases([8.0, 1.0, 1.0, 1.0, 1.0], dataclasses.replace(PLAIN, window=3))
    assert phases.markers == (2, 3, 5)


def test_a_rise_is_no_progress():
    # smoothed: 1, 4.5, 5.75, 6.38, 6.69, 3.84, 2.42, 1.71, 1.35, 1.18, 1.09, 1.04; the first level,
    # 0.365 nats from 4.5, is passed upwards at epoch 5 and downwards at 7
    losses = [1.0, 8.0, 7.0, 7.0, 7.0] + [1.0] * 8
    phases = find_phases(losses, PhaseConfig(num_phases=4, threshold=0.05, decay=0.5, window=1))
    assert phases.start_epoch == 2
    assert phases.markers == (7, 8, 9, 12)


def test_start_is_the_first_epoch_of_the_largest_raw_loss():
    config = dataclasses.replace(PLAIN, window=2)  # CQI 4, 2, 2, 3, 1.5, 0.5
    phases = find_phases([4.0, 8.0, 8.0, 4.0, 2.0, 1.0, 1.0], config)
    assert (phases.start_epoch, phases.markers) == (2, (4, 5, 7))


def test_a_flat_start_does_not_count_as_converged():
    phases = find_phases([8.0, 8.0, 8.0, *HALVING], PLAIN)
    assert phases.convergence_epoch == 8


def test_convergence_counts_from_the_first_of_equal_cqi_maxima():
    # changes 4, 4, 0, 4: met at epoch 4, between the two maxima
    config = dataclasses.replace(PLAIN, num_phases=2)
    assert find_phases([13.0, 9.0, 5.0, 5.0, 1.0], config).convergence_epoch == 4


def test_cqi_equal_to_the_threshold_converges():
    phases = find_phases([8.0, 4.0, 2.0, 1.0, 0.5, 0.25], PLAIN)
    assert phases.convergence_epoch == 5


def test_a_loss_of_zero_is_clamped_12_decades_below_the_largest():
    # so half way down are 6 decades, which epoch 3 is the first to pass
    losses = [8.0, 8 * 10**-5.9, 8 * 10**-6.1, 1e-12, 0.0, 0.0]
    phases = find_phases(losses, dataclasses.replace(PLAIN, num_phases=2, window=3))
    assert phases.markers == (3, 5)


def test_relative_threshold_is_a_share_of_the_smoothed_range():
    relative = dataclasses.replace(PLAIN, threshold=1e9, relative_threshold=0.5 / 7)
    phases = find_phases(HALVING, relative)
    assert phases.markers == (2, 3, 5)
    assert phases.threshold == pytest.approx(0.5)
    assert find_phases(HALVING, PLAIN).threshold == 0.5


def test_last_epoch_stands_in_where_asked():
    config = dataclasses.replace(PLAIN, threshold=1e-3, if_not_converged="last")
    phases = find_phases(HALVING[:4], config)
    assert phases.markers == (2, 3, 4)
    assert phases.converged is False
    assert find_phases(HALVING, PLAIN).converged is True


def test_unsmoothed_and_debiased_markers_are_those_of_their_own_configs():
    curve = 2.3 * np.exp(-np.arange(120) / 9) + 0.01
    config = PhaseConfig(threshold=1e-3)
    phases = find_phases(curve, config)
    for name, smoothing in (("unsmoothed", "none"), ("debiased", "debiased_ema")):
        other = find_phases(curve, dataclasses.replace(config, smoothing=smoothing))
        assert getattr(phases, f"{name}_markers") == other.markers != phases.markers


def test_the_step_curve_has_the_same_first_and_last_loss_length_and_config():
    falling = 2.3 * np.exp(-np.arange(80) / 12) + 0.01
    curve = [1.9, *falling, 0.12]  # neither end is the largest or the smallest loss
    config = PhaseConfig(threshold=2e-3, decay=0.8)
    step = find_phases([1.9] + [0.12] * 81, config)
    assert find_phases(curve, config).step_curve_markers == step.markers


def test_a_slow_curve_is_not_smoothing_driven():
    curve = 2.3 * np.exp(-np.arange(200) / 30) + 0.001
    phases = find_phases(curve, PhaseConfig(threshold=1e-3))
    assert phases.smoothing_driven is False
    difference = np.subtract(phases.markers, phases.step_curve_markers)
    assert phases.smoothing_distance == pytest.approx(np.abs(difference).mean())


def test_smoothing_driven_is_unknown_where_the_step_curve_has_no_phases():
    phases = find_phases(HALVING, PLAIN)  # unsmoothed, the step is over after one epoch
    assert phases.step_curve_markers is None
    assert phases.smoothing_driven is None
    assert phases.smoothing_distance is None


def test_learning_rate_at_convergence_over_its_peak():
    phases = find_phases(HALVING, PLAIN, learning_rates=[0.1, 0.4, 0.3, 0.2, 0.08, 0.0])
    assert phases.lr_fraction == pytest.approx(0.2)
    assert phases.schedule_driven is True
    constant = find_phases(HALVING, PLAIN, learning_rates=[0.1] * 6)
    assert (constant.lr_fraction, constant.schedule_driven) == (1.0, False)
    without = find_phases(HALVING, PLAIN)
    assert (without.lr_fraction, without.schedule_driven) == (None, None)


def test_a_rate_of_exactly_a_quarter_is_not_schedule_driven():
    phases = find_phases(HALVING, PLAIN, learning_rates=[4, 3, 2, 2, 1, 0])
    assert (phases.lr_fraction, phases.schedule_driven) == (0.25, False)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([0.1] * 5, "one value per epoch, 6; got 5"),
        ([0.0] * 6, "only zeros"),
        ([0.1] * 5 + [-0.1], "must not be negative; got -0.1 at epoch 6"),
        ([math.nan] * 6, "learning_rates must be finite"),
    ],
)
def test_bad_learning_rates_are_refused(rates, message):
    with pytest.raises(ValueError, match=message):
        find_phases(HALVING, PLAIN, learning_rates=rates)


@pytest.mark.parametrize(
    ("losses", "config", "message"),
    [
        ([2.0, 1.0, 1.0], PLAIN, "need at least 4 epochs; got 3"),
        ([0.0] * 9, PLAIN, "all losses are 0"),
        ([1.0] * 9, PLAIN, "the loss never changes"),
        (HALVING, PhaseConfig(3, 100.0, smoothing="none"), "never above the threshold"),
        (HALVING[:4], PLAIN, "not converged.*up to the last epoch 4"),
        (list(range(9)), PLAIN, "not converged"),
        ([9, 8, 4, 4, 4], dataclasses.replace(PLAIN, num_phases=4), "at least 4 epochs from"),
        ([1, 2, 4, 8, 8, 8], PLAIN, r"got 1 \(epochs 4 to 5\)"),
    ],
)
def test_curves_without_phases_say_why(losses, config, message):
    with pytest.raises(NoPhasesError, match=message):
        find_phases(losses, config)


def test_a_curve_no_lower_at_convergence_makes_no_progress():
    # two-tap delays by an epoch: smoothed 1, 1, 1.6, 7.9, …; the largest raw loss stands at 3
    losses = [1.0, 1.0, 8.0, 7.9, 7.9, 7.9, 7.9, 7.9, 7.9]
    config = PhaseConfig(num_phases=2, threshold=0.1, smoothing="two_tap", window=1)
    with pytest.raises(NoPhasesError, match="no progress"):
        find_phases(losses, config)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([1.0, -0.5] * 9, "losses must not be negative; got -0.5 at epoch 2"),
        ([1.0, math.nan] * 9, "finite; got nan at epoch 2"),
        (["2.0"] * 20, "real numbers"),
        ("2.0", "1-d"),
        (None, "1-d"),
        ([], "at least one"),
        (np.ones((3, 9)), r"1-d.*\(3, 9\)"),
    ],
)
def test_malformed_losses_are_refused(losses, message):
    with pytest.raises(ValueError, match=message):
        find_phases(losses)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_phases": 0}, "num_phases must be a whole number of at least 1"),
        ({"num_phases": 2.5}, "num_phases must be"),
        ({"threshold": 0}, "threshold must be a number above 0"),
        ({"threshold": math.inf}, "threshold must be"),
        ({"threshold": 10**400}, "threshold must be"),
        ({"threshold": "1e-4"}, "threshold must be"),
        ({"relative_threshold": 1.0}, "relative_threshold must be .* below 1;"),
        ({"smoothing": "median"}, "smoothing must be one of ema, debiased_ema, two_tap, none"),
        ({"decay": 1.0}, "0 <= decay < 1"),
        ({"window": 0}, "window must be"),
        ({"if_not_converged": "skip"}, "if_not_converged must be one of error, last; got 'skip'"),
    ],
)
def test_settings_out_of_range_name_the_choices(settings, message):
    with pytest.raises(ValueError, match=message):
        PhaseConfig(**settings)


def test_a_config_of_another_type_is_refused():
    with pytest.raises(ValueError, match="config must be a PhaseConfig; got dict"):
        find_phases(HALVING, {"num_phases": 3})


def test_numpy_settings_equal_python_ones():
    settings = PhaseConfig(np.int64(3), np.float64(0.5), decay=np.float64(0.5))
    assert settings == PhaseConfig(3, 0.5, decay=0.5)
    assert type(settings.num_phases) is int


def test_a_marker_ends_its_phase():
    phases = find_phases([4.0, 8.0, 4.0, 3.0, 2.0, 1.0, 1.0, 1.0], PLAIN)
    assert (phases.start_epoch, phases.markers) == (2, (3, 5, 7))
    assert [phases.phase_at(epoch) for epoch in range(1, 9)] == [1, 1, 1, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("epoch", [0, -1, 7, 1.0, "1", None])
def test_phase_at_refuses_what_is_no_epoch_of_the_run(epoch):
    with pytest.raises(ValueError, match="whole number in 1…6; got"):
        find_phases(HALVING, PLAIN).phase_at(epoch)


def test_equal_results_are_equal_and_hash_alike():
    phases = find_phases(STEP, PhaseConfig(threshold=2e-3), learning_rates=[0.1] * 60)
    for twin in (
        find_phases(tuple(STEP), PhaseConfig(threshold=2e-3), learning_rates=[0.1] * 60),
        copy.deepcopy(phases),
        pickle.loads(pickle.dumps(phases)),
    ):
        assert twin == phases
        assert hash(twin) == hash(phases)
    assert phases != find_phases(STEP, PhaseConfig(threshold=2e-3))
    assert phases != phases.markers


def test_json_round_trips_exactly_and_is_strict():
    curve = 2.3 * np.exp(-np.arange(90) / 9) + np.random.default_rng(1).uniform(0, 0.003, 90)
    rates = np.cos(np.arange(90) / 60) ** 2
    for learning_rates in (None, rates):
        phases = find_phases(curve, PhaseConfig(threshold=5e-3), learning_rates=learning_rates)
        text = phases.to_json()
        plain = json.loads(text, parse_constant=pytest.fail)
        assert plain["cqi"][0] is None
        assert plain["config"]["threshold"] == 5e-3
        assert Phases.from_json(text) == phases
        assert Phases.from_json(text).to_json() == text


def change(**values):
    plain = json.loads(find_phases(HALVING, PLAIN).to_json())
    return json.dumps(plain | values)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        change(extra=1),
        change(markers=None),
        change(markers=[2, 2, 5]),
        change(markers=[2, 3, 4]),
        change(markers=[2.0, 3.0, 5.0]),
        change(start_epoch=2),
        change(converged=None),
        change(converged="yes"),
        change(smoothed=[math.nan] * 6),
        change(cqi=[None] * 6),
        change(config={"num_phases": 3, "colour": "red"}),
        change(config={"num_phases": 4}),
    ],
)
def test_json_of_no_phases_is_refused(text):
    with pytest.raises(ValueError, match="expected phases as to_json writes them"):
        Phases.from_json(text)


def test_results_are_frozen():
    phases = find_phases(HALVING, PLAIN)
    with pytest.raises(dataclasses.FrozenInstanceError):
        phases.markers = (1, 2, 3)
