"""Figures of compared arms."""

import numpy as np
import pytest

from fmce.report.arm_figures import comparison_figure, progress_figure

ROWS = [
    {"arm": "baseline", "seed": 1, "test_accuracy": 0.90},
    {"arm": "ral", "seed": 1, "test_accuracy": 0.92},
    {"arm": "baseline", "seed": 2, "test_accuracy": 0.80},
    {"arm": "ral", "seed": 2, "test_accuracy": 0.81},
]


def test_comparison_joins_the_arms_of_a_seed_and_marks_means():
    axes = comparison_figure(ROWS).axes[0]
    assert [line.get_ydata().tolist() for line in map(_array, axes.lines)] == [[90, 92], [80, 81]]
    means = [c.get_segments()[0][0][1] for c in axes.collections if hasattr(c, "get_segments")]
    assert means == pytest.approx([85, 86.5])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["baseline", "ral"]


def _array(line):
    line.set_ydata(np.asarray(line.get_ydata()))
    return line


def test_a_seed_that_has_not_all_arms_is_drawn_with_those_it_has():
    axes = comparison_figure([*ROWS, {"arm": "ral", "seed": 3, "test_accuracy": 0.7}]).axes[0]
    assert np.asarray(axes.lines[2].get_xdata()).tolist() == [1]


def test_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match="at least one training"):
        comparison_figure([])


def test_the_teachers_score_is_a_line_across_the_arms():
    axes = comparison_figure(ROWS, teacher=0.95).axes[0]
    assert list(axes.lines[-1].get_ydata()) == pytest.approx([95, 95])
    assert axes.lines[-1].get_label() == "teacher"


def test_progress_has_a_panel_per_quantity_with_the_teacher_beside_the_score():
    point = {"steps": 4, "miou": 0.25, "agreement": 0.5}
    rows = [{"arm": "distilled", "curve": [point, {**point, "steps": 8, "miou": 0.75}]}]
    result = {"rows": rows, "score_name": "miou", "teacher": {"miou": 0.8}}
    score, agreement = progress_figure(result).axes
    assert [list(line.get_ydata()) for line in score.lines] == [[25, 75], [80, 80]]
    assert list(score.lines[0].get_xdata()) == [4, 8]
    assert list(agreement.lines[0].get_ydata()) == [50, 50]
    rows[0]["curve"] = [{**p, "agreement_held_out": 0.1} for p in rows[0]["curve"]]
    assert len(progress_figure(result).axes) == 3
