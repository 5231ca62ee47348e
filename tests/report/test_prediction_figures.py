"""Figures of function matching that show predictions."""

import numpy as np
from matplotlib.colors import to_hex

from fmce.report.picture_figures import boxes_figure

PACKED = np.array([[[2, 3, 12, 9, 1, 0], [0, 0, 4, 4, 0, 1], [0, 0, 0, 0, -1, 0]]], np.float32)


def test_boxes_are_drawn_in_the_colour_that_the_legend_names_for_their_class():
    images = np.zeros((1, 16, 24, 3), np.uint8)
    figure = boxes_figure(images, {"truth": PACKED, "teacher": PACKED[:, :1]}, ["car", "sign"])
    (legend,) = figure.legends
    named = {
        text.get_text(): to_hex(line.get_color())
        for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
    }
    assert list(named) == ["car", "sign"]
    truth, teacher = figure.axes
    sign, car = truth.patches
    assert [to_hex(p.get_edgecolor()) for p in (sign, car)] == [named["sign"], named["car"]]
    assert named["sign"] != named["car"]
    assert (sign.get_xy(), sign.get_width(), sign.get_height()) == ((1.5, 2.5), 10, 6)
    assert [p.get_linestyle() for p in (sign, car)] == ["-", ":"]
    assert len(teacher.patches) == 1
