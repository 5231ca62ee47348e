"""Arms side by side: what counts into an adjusted p."""

import subprocess
import sys

import pytest
from scipy import stats

from fmce.fmce_net_pp.statistics import compare_with_baseline


def rows(**accuracies):
    """Return a row for each arm's accuracies at seeds 1, 2, …"""
    return [
        {"arm": arm, "seed": seed, "test_accuracy": value, "epoch_seconds": 2.0}
        for arm, values in accuracies.items()
        for seed, value in enumerate(values, start=1)
    ]


def test_an_arm_without_spread_counts_among_those_that_p_is_adjusted_for():
    base, better = [0.80, 0.82, 0.81], [0.85, 0.86, 0.86]
    shifted = [value + 0.01 for value in base]
    first, flat = compare_with_baseline(rows(baseline=base, ral=better, shifted=shifted))
    p = stats.ttest_rel(better, base).pvalue
    assert (first["p_value"], first["p_holm"]) == pytest.approx((p, 2 * p))
    assert (flat["p_value"], flat["p_holm"]) == (None, None)


def test_statistics_need_no_torch():
    code = "import sys, fmce.fmce_net_pp.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
