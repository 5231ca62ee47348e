"""The loss figure shows the numbers it was given, and files are written atomically."""

import doctest
import re

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from fmce import PhaseConfig, find_phases
from fmce.report import loss_figure
from fmce.report.figures import save_figure
from fmce.report.loss_figure import loss_phases_figure

LOSSES = 2.3 * np.exp(-np.arange(80) / 7) + np.random.default_rng(0).uniform(0, 0.01, 80)
CONFIG = PhaseConfig(threshold=3e-3)
PHASES = find_phases(LOSSES, CONFIG)


def panel(figure, letter):
    (axes,) = (a for a in figure.axes if a.get_title(loc="left").startswith(f"({letter})"))
    return axes


def line(axes, label):
    (found,) = (entry for entry in axes.lines if entry.get_label() == label)
    return found


def test_panel_a_shows_raw_and_smoothed_losses_and_convergence():
    axes = panel(loss_phases_figure(LOSSES, PHASES), "a")
    assert np.array_equal(line(axes, "raw").get_ydata(), LOSSES)
    assert tuple(line(axes, "recursive average").get_ydata()) == PHASES.smoothed
    converged = line(axes, f"converged, epoch {PHASES.convergence_epoch}")
    assert set(converged.get_xdata()) == {PHASES.convergence_epoch}


def test_panel_b_shows_cqi_on_a_log_scale_with_its_threshold():
    axes = panel(loss_phases_figure(LOSSES, PHASES), "b")
    assert axes.get_yscale() == "log"
    assert np.array_equal(line(axes, "CQI, mean of 5 changes").get_ydata()[1:], PHASES.cqi[1:])
    assert set(line(axes, "threshold µ = 0.003").get_ydata()) == {3e-3}


@pytest.mark.parametrize(("letter", "scale"), [("c", np.asarray), ("d", np.log)])
def test_panels_c_and_d_show_the_markers_on_the_curve(letter, scale):
    axes = panel(loss_phases_figure(LOSSES, PHASES), letter)
    dots = line(axes, "end of phase k")
    assert tuple(dots.get_xdata()) == PHASES.markers
    heights = [scale(PHASES.smoothed[epoch - 1]) for epoch in PHASES.markers]
    np.testing.assert_allclose(dots.get_ydata(), heights)
    assert sorted(int(text.get_text()) for text in axes.texts) == list(range(1, 11))


def test_panel_d_has_evenly_spaced_levels_from_start_to_convergence():
    axes = panel(loss_phases_figure(LOSSES, PHASES), "d")
    levels = [x.get_ydata()[0] for x in axes.lines if list(x.get_xdata()) == [0, 1]]
    ends = np.log([PHASES.smoothed[0], PHASES.smoothed[PHASES.convergence_epoch - 1]])
    np.testing.assert_allclose(levels, np.linspace(*ends, 11))


def test_strip_shows_the_step_curves_and_the_other_smoothers_markers():
    axes = panel(loss_phases_figure(LOSSES, PHASES), "e")
    ticks = [tuple(entry.get_xdata()) for entry in axes.lines if entry.get_marker() == "|"]
    assert ticks == [
        PHASES.markers,
        PHASES.step_curve_markers,
        PHASES.debiased_markers,
        PHASES.unsmoothed_markers,
    ]
    assert f"{PHASES.smoothing_distance:.1f} epochs apart" in axes.get_title(loc="left")


def test_strip_says_where_a_curve_has_no_phases():
    losses = [2.3] + [0.001] * 59
    axes = panel(loss_phases_figure(losses, find_phases(losses, PhaseConfig(threshold=2e-3))), "e")
    assert "0.0 epochs apart on average, smoothing driven" in axes.get_title(loc="left")
    assert [text.get_text() for text in axes.texts] == ["no phases under these settings"]


def test_a_run_that_has_not_converged_is_labelled_so():
    config = PhaseConfig(threshold=1e-9, if_not_converged="last")
    axes = panel(loss_phases_figure(LOSSES, find_phases(LOSSES, config)), "a")
    assert line(axes, "last epoch 80, not converged")


def test_inset_is_left_out_where_it_would_cover_the_curve():
    assert panel(loss_phases_figure(LOSSES, PHASES), "a").child_axes
    rising = np.concatenate([LOSSES, np.full(40, 2.0)])
    phases = find_phases(rising, PhaseConfig(num_phases=1, relative_threshold=0.01))
    assert not panel(loss_phases_figure(rising, phases), "a").child_axes


def test_legends_stay_outside_the_data():
    figure = loss_phases_figure(LOSSES, PHASES)
    figure.draw_without_rendering()
    for letter in "abcd":
        axes = panel(figure, letter)
        assert axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1 - 1


@pytest.mark.parametrize(
    ("losses", "config"),
    [
        ([8.0, 4.0, 2.0, 1.0, 1.0], PhaseConfig(1, 0.5, smoothing="none", window=1)),
        ([8.0, 0.1, 0.0, 0.0, 0.0], PhaseConfig(2, 0.5, smoothing="two_tap", window=2)),
        (2.3 * np.exp(-np.arange(400) / 60), PhaseConfig(50, 1e-4, smoothing="debiased_ema")),
    ],
)
def test_short_exactly_zero_and_finely_cut_curves_are_drawn(losses, config, tmp_path):
    save_figure(loss_phases_figure(losses, find_phases(losses, config)), tmp_path / "f.png")
    assert imread(tmp_path / "f.png").std() > 0.05


def test_losses_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"each of the 80 epochs of phases; got shape \(79,\)"):
        loss_phases_figure(LOSSES[:-1], PHASES)


def test_drawing_and_saving_leave_matplotlibs_settings(tmp_path):
    before = dict(mpl.rcParams)
    save_figure(loss_phases_figure(LOSSES, PHASES), tmp_path / "loss.svg")
    assert dict(mpl.rcParams) == before


def test_png_and_svg_are_written_by_suffix_with_nothing_beside(tmp_path):
    for name in ("loss.png", "loss.SVG"):
        save_figure(loss_phases_figure(LOSSES, PHASES), str(tmp_path / name))
    assert imread(tmp_path / "loss.png").shape[:2] == (1290, 1500)
    assert re.match(rb"<\?xml.*?<svg", (tmp_path / "loss.SVG").read_bytes(), re.DOTALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.SVG", "loss.png"]


def test_svg_files_of_the_same_picture_are_the_same_bytes(tmp_path):
    for name in ("a.svg", "b.svg"):
        figure = Figure()
        figure.subplots().plot([1, 2, 3], marker="o")
        save_figure(figure, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_other_suffixes_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"written as \.png or \.svg; got 'loss\.pdf'"):
        save_figure(Figure(), tmp_path / "loss.pdf")
    with pytest.raises(ValueError, match="does not exist: create it to write loss"):
        save_figure(Figure(), tmp_path / "none" / "loss.png")


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "loss.png"
    path.write_bytes(b"old")

    def fail_half_way(self, path, **options):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail_half_way)
    with pytest.raises(OSError, match="disk full"):
        save_figure(Figure(), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["loss.png"]
    assert path.read_bytes() == b"old"


def test_examples_in_docstrings_hold():
    assert doctest.testmod(loss_figure).failed == 0
