import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from fmce.metrics.statistics import holm, mean_sd, paired_comparison


def test_hand_worked_comparison() -> None:
    # d = 1, 2, 3: mean 2, sd 1, error 1/√3; t(0.975, 2) = 4.302653, t = 2√3 → p = 0.0741799.
    result = paired_comparison([90.0, 91.0, 92.0], [91.0, 93.0, 95.0])
    assert (result.n, result.mean_baseline, result.mean_treatment) == (3, 91, 93)
    assert (result.sd_baseline, result.sd_treatment) == (1, 2)
    assert result.mean_difference == 2
    assert result.interval_low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert result.interval_high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)
    assert result.p_value == pytest.approx(0.0741799, abs=1e-6)
    assert not result.distinguishable


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 5, 30])
def test_agrees_with_scipys_paired_t_test(n: int, confidence: float) -> None:
    rng = np.random.default_rng(n)
    baseline = rng.normal(0.9, 0.02, n)
    treatment = baseline + rng.normal(0.005, 0.01, n)
    result = paired_comparison(baseline, treatment, confidence)
    oracle = stats.ttest_rel(treatment, baseline)
    interval = oracle.confidence_interval(confidence)
    assert result.p_value == pytest.approx(oracle.pvalue)
    assert (result.interval_low, result.interval_high) == pytest.approx(tuple(interval))
    assert result.distinguishable == (oracle.pvalue < 1 - confidence)


def test_verdict_states_a_gain() -> None:
    result = paired_comparison([0.90, 0.91, 0.92, 0.90], [0.95, 0.961, 0.97, 0.949])
    assert result.distinguishable
    assert result.verdict(scale=100, unit="pp").startswith("There is a gain of 5 pp (95% interval")
    assert "4 pairs, p = " in result.verdict()


def test_verdict_states_a_loss() -> None:
    result = paired_comparison([0.95, 0.961, 0.97, 0.949], [0.90, 0.91, 0.92, 0.90])
    assert result.distinguishable
    assert result.verdict(scale=100, unit="pp").startswith(
        "There is a loss of 5 pp (95% interval -"
    )


@pytest.mark.parametrize(("shift", "kind"), [(0.01, "gain"), (-0.01, "loss")])
def test_verdict_says_when_nothing_is_established(shift: float, kind: str) -> None:
    result = paired_comparison([0.8, 0.9, 0.7], [0.9 + shift, 0.8 + shift, 0.7 + shift])
    assert f"The {kind} of 0.01 is not distinguishable from zero" in result.verdict()


def test_equal_arms_have_p_1_and_an_interval_of_width_zero() -> None:
    result = paired_comparison([0.1, 0.2], [0.1, 0.2])
    assert (result.interval_low, result.interval_high, result.p_value) == (0, 0, 1)
    assert not result.distinguishable
    assert result.verdict().startswith("There is no difference on average")


def test_equal_differences_show_no_spread_and_so_prove_nothing() -> None:
    # In floating point these differences are 0.01 ± 1e-16, which is no spread.
    result = paired_comparison([0.8, 0.9, 0.7], [0.81, 0.91, 0.71])
    assert result.mean_difference == pytest.approx(0.01)
    assert math.isnan(result.p_value)
    assert math.isnan(result.interval_low)
    assert not result.distinguishable
    assert result.verdict(scale=100, unit="pp").startswith("All 3 differences are +1 pp")
    assert result.to_dict()["p_value"] is None


def test_an_adjusted_p_may_take_the_gain_back() -> None:
    result = paired_comparison([0.1, 0.2, 0.3, 0.4], [0.21, 0.3, 0.4, 0.49])
    assert result.verdict().startswith("There is a gain")
    taken_back = result.verdict(adjusted_p=0.2)
    assert "not distinguishable from zero" in taken_back
    assert "adjusted 0.2" in taken_back


def test_rounding_is_no_gain() -> None:
    result = paired_comparison([0.3, 0.3], [0.1 + 0.2, 0.1 + 0.2])
    assert (result.mean_difference, result.p_value, result.distinguishable) == (0, 1, False)


def test_a_comparison_is_frozen() -> None:
    result = paired_comparison([1.0, 2.0], [2.0, 4.0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.n = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("baseline", "treatment", "message"),
    [
        ([1.0], [2.0], "at least 2 pairs, got 1 baseline and 1 treatment"),
        ([1.0, 2.0], [2.0], "got 2 baseline and 1 treatment"),
        ([1.0, math.nan], [2.0, 3.0], "expected baseline as a list of finite numbers"),
        ([1.0, 2.0], [[2.0], [3.0]], "expected treatment as a list"),
    ],
)
def test_arms_that_do_not_pair_are_refused(
    baseline: list[float], treatment: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        paired_comparison(baseline, treatment)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
def test_a_confidence_outside_0_to_1_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\)"):
        paired_comparison([1.0, 2.0], [2.0, 4.0], confidence)


def test_holm_matches_a_hand_worked_case() -> None:
    # Sorted 0.005 0.01 0.03 0.04, times 4 3 2 1: 0.02 0.03 0.06 0.04, then made monotone.
    adjusted = holm([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])


def test_holm_agrees_with_its_definition_by_sets() -> None:
    # p̃ of hypothesis i = max over hypotheses j with p_j <= p_i of (number with p >= p_j) · p_j.
    p = np.random.default_rng(0).uniform(0, 0.3, 12)
    direct = [max(min(1, (p >= q).sum() * q) for q in p[p <= each]) for each in p]
    np.testing.assert_allclose(holm(p), direct)


def test_holm_counts_a_comparison_without_spread_and_leaves_it_undefined() -> None:
    # Of m = 3 comparisons 0.01 is tripled; the NaN, worth 1, is passed through.
    np.testing.assert_allclose(holm([0.01, math.nan, 0.2]), [0.03, math.nan, 0.4])
    assert np.isnan(holm([math.nan])).all()
    assert holm([]).shape == (0,)
    assert holm([0.6, 0.7]).tolist() == [1, 1]


@pytest.mark.parametrize("p_values", [[-0.1], [1.1], [[0.1]], 0.5])
def test_holm_refuses_what_is_no_list_of_p_values(p_values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"list of p-values in \[0, 1\]"):
        holm(p_values)


def test_mean_sd_divides_by_n_minus_1() -> None:
    assert mean_sd([2.0, 4.0, 9.0]) == pytest.approx((5, math.sqrt((9 + 1 + 16) / 2)))
    mean, spread = mean_sd([3.0])
    assert mean == 3
    assert math.isnan(spread)
    with pytest.raises(ValueError, match="expected values as a list of finite numbers"):
        mean_sd([])


def test_importing_statistics_does_not_import_torch() -> None:
    code = "import sys, fmce.metrics.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
