"""Predicting the published convergence epoch of a running training."""

import numpy as np
import pytest

from fmce.convergence.phases import PhaseConfig, find_phases
from fmce.convergence.prediction import predict_convergence_epoch

CONFIG = PhaseConfig(threshold=2e-3)
T = np.arange(150)
CURVES = {
    "exponential": 2.3 * np.exp(-T / 10) + 0.05,
    "power law": 2.3 * (1 + T / 3) ** -1.5 + 0.05,
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_the_interval_holds_the_epoch_that_comes(name, noise):
    losses = CURVES[name] * np.exp(noise * np.random.default_rng(0).standard_normal(150))
    truth = find_phases(losses, CONFIG).convergence_epoch
    for seen in (int(0.5 * truth), int(0.8 * truth)):
        predicted = predict_convergence_epoch(losses[:seen], CONFIG)
        assert predicted.low - 1 <= truth <= predicted.high + 1
        assert predicted.low <= predicted.epoch <= predicted.high


def test_nothing_is_predicted_from_few_epochs_or_a_curve_that_does_not_fall():
    assert predict_convergence_epoch(CURVES["exponential"][:9], CONFIG) is None
    assert predict_convergence_epoch(np.linspace(3, 2, 30), CONFIG) is None


def test_bad_input_is_a_value_error():
    with pytest.raises(ValueError, match="losses"):
        predict_convergence_epoch([1.0, float("nan")] * 10, CONFIG)
