"""Properties of phases on arbitrary curves, and a second implementation in plain loops."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fmce import PhaseConfig, find_phases
from fmce.convergence.phases import NoPhasesError

CONFIGS = st.builds(
    PhaseConfig,
    num_phases=st.integers(1, 12),
    threshold=st.floats(1e-6, 1.0),
    relative_threshold=st.none() | st.floats(1e-6, 0.5),
    smoothing=st.sampled_from(["ema", "debiased_ema", "two_tap", "none"]),
    decay=st.floats(0, 0.99),
    window=st.integers(1, 12),
    if_not_converged=st.sampled_from(["error", "last"]),
)
ANY_CURVE = st.lists(st.floats(0, 1e300), max_size=40)
# Falling curves with noise, most of which have phases.
FALLING = st.builds(
    lambda seed, length, rate, floor, noise: (
        2.3 * np.exp(-np.arange(length) * rate) * (1 - floor)
        + 2.3 * floor
        + noise * np.random.default_rng(seed).uniform(0, 0.1, length)
    ).tolist(),
    st.integers(0, 10_000),
    st.integers(12, 90),
    st.floats(0.03, 1.0),
    st.floats(0, 0.3),
    st.sampled_from([0.0, 0.01, 1.0]),
)


def reference_smooth(losses, config):
    alpha, method, total = config.decay, config.smoothing, len(losses)
    if method == "none":
        return list(losses)
    if method == "two_tap":
        pairs = [alpha * losses[m - 1] + (1 - alpha) * losses[m] for m in range(1, total)]
        return [losses[0], *pairs]
    if method == "debiased_ema":
        smoothed = []
        for m in range(total):
            weights = [alpha ** (m - i) for i in range(m + 1)]
            mean = sum(w * x for w, x in zip(weights, losses, strict=False)) / sum(weights)
            smoothed.append(mean)
        return smoothed
    smoothed = [losses[0]]
    for m in range(1, total):
        smoothed.append(alpha * smoothed[-1] + (1 - alpha) * losses[m])
    return smoothed


def reference_cqi(smoothed, window):
    """CQI by epoch, from epoch 2."""
    by_epoch = {}
    for m in range(2, len(smoothed) + 1):
        count = min(window, m - 1)
        changes = [abs(smoothed[i - 1] - smoothed[i - 2]) for i in range(m - count + 1, m + 1)]
        by_epoch[m] = sum(changes) / count
    return by_epoch


def reference_markers(losses, config):
    """Markers by the method notes' words, or None; skips cases that rounding decides."""
    phases, total = config.num_phases, len(losses)
    smoothed = reference_smooth(losses, config)
    by_epoch = reference_cqi(smoothed, config.window)
    threshold = config.threshold
    if config.relative_threshold is not None:
        threshold = config.relative_threshold * (max(smoothed) - min(smoothed))
    for value in by_epoch.values():
        assume(abs(value - threshold) > 1e-12 * max(smoothed))
    largest = max(by_epoch.values())
    near = [m for m in by_epoch if by_epoch[m] > largest * (1 - 1e-12)]
    assume(len(near) == 1)
    if largest <= threshold:
        return None
    end = None
    for m in range(near[0] + 1, total + 1):
        if end is None and by_epoch[m] <= threshold:
            end = m
    if end is None and config.if_not_converged == "error":
        return None
    end = total if end is None else end
    start = losses.index(max(losses)) + 1
    if end - start < phases or smoothed[end - 1] >= smoothed[start - 1]:
        return None
    return reference_levels(smoothed, start, end, phases)


def reference_levels(smoothed, start, end, phases):
    floor = 1e-12 * max(smoothed)

    def progress(m):
        return math.log(max(smoothed[start - 1], floor)) - math.log(max(smoothed[m - 1], floor))

    assume(progress(end) > 1e-6)
    markers, previous = [], start
    for k in range(1, phases):
        m = previous + 1
        while progress(m) < k * progress(end) / phases * (1 - 1e-9):
            m += 1
        previous = min(m, end - (phases - k))
        markers.append(previous)
    return (*markers, end)


def markers_or_none(losses, config):
    try:
        return find_phases(losses, config).markers
    except NoPhasesError:
        return None


@settings(max_examples=300, deadline=None)
@given(losses=FALLING, config=CONFIGS)
def test_markers_agree_with_a_second_implementation(losses, config):
    assume(len(losses) > config.num_phases)
    assert markers_or_none(losses, config) == reference_markers(losses, config)


@settings(max_examples=300, deadline=None)
@given(losses=ANY_CURVE | FALLING, config=CONFIGS)
def test_every_curve_gives_rising_markers_or_a_documented_error(losses, config):
    if not losses:
        with pytest.raises(ValueError, match="at least one"):
            find_phases(losses, config)
        return
    try:
        phases = find_phases(losses, config)
    except NoPhasesError:
        return
    ladder = (phases.start_epoch, *phases.markers)
    assert len(phases.markers) == config.num_phases
    assert all(low < high for low, high in pairwise(ladder))
    assert phases.markers[-1] == phases.convergence_epoch <= len(losses)
    assert losses[phases.start_epoch - 1] == max(losses)
    assert type(phases).from_json(phases.to_json()) == phases


@settings(max_examples=200, deadline=None)
@given(losses=FALLING, config=CONFIGS, exponent=st.integers(-1000, 1000))
def test_scaling_losses_and_threshold_alike_changes_no_epoch(losses, config, exponent):
    scaled_threshold = math.ldexp(config.threshold, exponent)
    scaled_config = PhaseConfig(**(vars(config) | {"threshold": scaled_threshold}))
    expected = outcome(losses, config)
    assert outcome(np.ldexp(losses, exponent), scaled_config) == expected


def outcome(losses, config):
    try:
        found = find_phases(losses, config)
    except NoPhasesError:
        return None
    alternatives = (found.step_curve_markers, found.unsmoothed_markers, found.debiased_markers)
    return found.markers, found.start_epoch, found.converged, *alternatives


def test_scaling_by_ten_changes_no_marker_of_a_plain_curve():
    curve = 2.3 * np.exp(-np.arange(90) / 12) + 0.01
    expected = find_phases(curve, PhaseConfig(threshold=1e-3)).markers
    for scale in (1e-290, 1e-7, 10.0, 1e7, 1e290):
        assert find_phases(curve * scale, PhaseConfig(threshold=1e-3 * scale)).markers == expected


@pytest.mark.parametrize("largest", [1.7976931348623157e308, 5e-324])
def test_the_largest_and_the_smallest_floats_neither_overflow_nor_crash(largest):
    config = PhaseConfig(num_phases=2, threshold=largest, relative_threshold=0.01)
    phases = find_phases([largest, 0.0, largest] + [0.0] * 40, config)
    assert phases.markers[-1] == phases.convergence_epoch
    assert np.isfinite(phases.smoothed).all()


@given(losses=FALLING, config=CONFIGS)
@settings(max_examples=100, deadline=None)
def test_phases_never_go_back_and_cover_1_to_k(losses, config):
    try:
        phases = find_phases(losses, config)
    except NoPhasesError:
        assume(False)
    scores = [phases.phase_at(epoch) for epoch in range(1, len(losses) + 1)]
    assert scores == sorted(scores)
    assert set(scores) == set(range(1, config.num_phases + 1))
