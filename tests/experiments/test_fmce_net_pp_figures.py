"""Figures of FMCE-Net++'s arms: curves over epochs, bars by RAF."""

import numpy as np
import pytest

from experiments.fmce_net_pp_figures import accuracy_curves_figure, raf_bars_figure

ARMS = [
    {"arm": "plain", "mean": 0.9, "sd": 0.01},
    {"arm": "RAF 0.9", "mean": 0.92, "sd": None},
]


def test_curves_are_means_over_seeds_with_a_band_from_lowest_to_highest():
    curves = {"plain": np.array([[0.5, 0.7], [0.7, 0.9]]), "RAF 0.9": np.array([[0.25, 0.75]])}
    axes = accuracy_curves_figure(curves, title="tiny", label="validation accuracy (%)").axes[0]
    first, second = axes.lines
    assert first.get_xdata().tolist() == [1, 2]
    assert first.get_ydata() == pytest.approx([60, 80])
    assert second.get_ydata() == pytest.approx([25, 75])
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((50, 90))
    assert (axes.get_title(), axes.get_ylabel()) == ("tiny", "validation accuracy (%)")


def test_curves_that_are_not_seeds_by_epochs_are_refused():
    with pytest.raises(ValueError, match=r"seeds by epochs for 'plain', got shape \(3,\)"):
        accuracy_curves_figure({"plain": np.zeros(3)})
    with pytest.raises(ValueError, match="at least one arm's curves"):
        accuracy_curves_figure({})


def test_bars_stand_at_the_means_and_a_line_at_the_reference():
    axes = raf_bars_figure(ARMS, title="by RAF").axes[0]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([90, 92])
    assert axes.lines[-1].get_ydata() == pytest.approx([90, 90])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["plain", "RAF 0.9"]
    low, high = axes.get_ylim()
    assert 0 < low < 89
    assert high > 92


def test_bars_of_no_arm_are_refused():
    with pytest.raises(ValueError, match="at least one arm to draw"):
        raf_bars_figure([])
