"""Figures of confusion and Grad-CAM."""

import numpy as np
import pytest

from fmce.report.picture_figures import confusion_figure, grad_cam_figure


def texts(axes):
    return {tuple(t.get_position()): t.get_text() for t in axes.texts}


def test_confusion_shows_counts_where_there_are_any_and_shares_as_shade():
    counts = np.array([[6, 2], [0, 0]])
    axes = confusion_figure(counts, title="split map").axes[0]
    assert texts(axes) == {(0, 0): "6", (1, 0): "2"}  # x is the predicted phase
    assert axes.images[0].get_array().tolist() == [[0.75, 0.25], [0, 0]]
    assert axes.get_title() == "split map"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted phase", "true phase")


def test_a_matrix_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match=r"square matrix of counts, got shape \(2, 3\)"):
        confusion_figure(np.zeros((2, 3), dtype=int))


def cams():
    maps = np.zeros((3, 2, 2, 2))
    maps[:, 0, 0, 0] = [1, 2, 4]
    maps[:, 1, 1, 1] = [10, 20, 5]
    return maps


def cam_images(figure, row, columns=4):
    return [figure.axes[row * columns + c].images[-1] for c in range(1, columns)]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_rows_phases_share_one_colour_scale(channels):
    images = np.full((2, channels, 8, 8), 100, dtype=np.uint8)
    figure = grad_cam_figure(images, cams(), [2, 5, 9], ["zero", "one"])
    assert len(figure.axes) == 2 * 4
    assert {i.get_clim() for i in cam_images(figure, 0)} == {(0, 4)}
    assert {i.get_clim() for i in cam_images(figure, 1)} == {(0, 20)}
    assert cam_images(figure, 0)[1].get_array().tolist() == [[2, 0], [0, 0]]  # own resolution
    assert figure.axes[3].get_title() == "3\nepoch 9"
    assert figure.axes[4].get_ylabel() == "one"


def test_signed_maps_have_zero_in_the_middle():
    maps = cams()
    maps[0, 0, 1, 1] = -8
    figure = grad_cam_figure(np.zeros((2, 1, 8, 8), dtype=np.uint8), maps, [1, 2, 3], ["a", "b"])
    assert {i.get_clim() for i in cam_images(figure, 0)} == {(-8, 8)}
    assert {i.get_clim() for i in cam_images(figure, 1)} == {(0, 20)}


def test_maps_that_are_zero_everywhere_are_drawn(tmp_path):
    images = np.zeros((1, 1, 8, 8), dtype=np.uint8)
    figure = grad_cam_figure(images, np.zeros((2, 1, 2, 2)), [1, 2], ["a"])
    figure.savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("count", "epochs", "classes"),
    [(1, 3, 2), (2, 2, 2), (2, 3, 1)],
    ids=["images", "epochs", "names"],
)
def test_numbers_that_do_not_agree_are_refused(count, epochs, classes):
    images = np.zeros((count, 1, 8, 8), dtype=np.uint8)
    with pytest.raises(ValueError, match="expected 2 images and class names and 3 epochs"):
        grad_cam_figure(images, cams(), list(range(epochs)), ["x"] * classes)


def test_grad_cam_takes_texts_above_its_columns():
    images, cams = np.zeros((1, 1, 4, 4), dtype=np.uint8), np.ones((2, 1, 2, 2))
    figure = grad_cam_figure(images, cams, ["plain training", "RAF 0.9"], ["seven"])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["image", "plain training", "RAF 0.9"]
