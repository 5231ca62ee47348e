"""Histories: what they refuse, what was known at an epoch, and phases that are no whole numbers."""

import numpy as np
import pytest

from fmce.convergence.phases import PhaseConfig, find_phases
from fmce.scoring.history import ModuleHistory, continuous_phases
from tests.scoring.runs import history


def test_official_phases_reach_k_at_marker_k():
    losses = 2.3 * np.exp(-3 * np.linspace(0, 1, 60) ** 0.6)
    config = PhaseConfig(relative_threshold=1e-3, if_not_converged="last")
    markers = find_phases(losses, config).markers
    at = continuous_phases(losses, smoothed=True)
    for k, marker in enumerate(markers, start=1):
        assert at[marker - 1] >= k - 1e-9
        assert at[marker - 2] < k


def test_raw_phases_follow_the_loss_at_once():
    losses = np.r_[np.full(10, 2.0), np.full(30, 0.5)]
    losses[0] = 2.1
    raw, official = continuous_phases(losses), continuous_phases(losses, smoothed=True)
    assert raw[10] == pytest.approx(10)
    assert official[10] < 2


def test_until_drops_what_came_later():
    seen = history(0).until(8)
    assert seen.epochs[-1] <= 8
    assert len(seen.losses) == 8
    assert all(len(v) == len(seen.epochs) for v in seen.values.values())
    with pytest.raises(ValueError, match="ascending epochs from 1, got"):
        history(0).until(0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": [2, 1]}, "ascending epochs from 1"),
        ({"epochs": [0, 1]}, "ascending epochs from 1"),
        ({"epochs": [1, 2, 3]}, "expected 3 values of nc1, got 2"),
        ({"losses": [1.0]}, "epoch 2 was measured, but only 1 losses are known"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    good = {"epochs": [1, 2], "values": {"nc1": [0.0, 1.0]}, "twin": {"nc1": 0.0}}
    with pytest.raises(ValueError, match=message):
        ModuleHistory("run", "head", **good | fields)


def test_a_curve_without_phases_is_an_error():
    with pytest.raises(ValueError, match=r"."):
        continuous_phases(np.ones(40))
