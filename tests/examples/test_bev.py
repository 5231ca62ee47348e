"""The bird's-eye-view example: its cameras, its scenes, its view transform, and the example itself."""

import sys

import numpy as np
import pytest
import torch

from examples import bev


@pytest.mark.parametrize("camera", bev.CAMERAS)
def test_lifting_a_pixel_inverts_the_projection(camera):
    points = np.random.default_rng(0).uniform(-9, 9, (400, 3))
    pixels, depths = camera.project(points)
    for n in np.flatnonzero(depths > 0.5):
        lifted = camera.lift(pixels[n : n + 1], depths[n : n + 1])[0, 0]
        np.testing.assert_allclose(lifted, points[n], atol=1e-9)


def test_what_lies_ahead_is_in_the_middle_of_the_front_camera_and_the_left_of_it_on_its_left():
    front = bev.CAMERAS[0]
    (ahead, left), depths = front.project(np.array([[10.0, 0.0, 1.6], [10.0, 2.0, 1.6]]))
    np.testing.assert_allclose(ahead, [bev.WIDTH / 2, bev.HEIGHT / 2])
    assert left[0] < ahead[0]
    np.testing.assert_allclose(depths, 10.0)


def test_every_direction_is_seen_by_a_camera():
    for angle in np.linspace(0, 2 * np.pi, 73):
        point = 8 * np.array([[np.cos(angle), np.sin(angle), 0.2]])
        seen = [camera.project(point) for camera in bev.CAMERAS]
        assert any(d[0] > 0 and -1e-6 <= p[0, 0] <= bev.WIDTH + 1e-6 for p, d in seen)


def test_the_view_transform_equals_one_point_after_another():
    torch.manual_seed(0)
    view = bev.ViewTransform(channels=4, context=3).eval()
    rows, columns = bev.HEIGHT // bev.STRIDE, bev.WIDTH // bev.STRIDE
    features = torch.randn(2, 4 * len(bev.CAMERAS), rows, columns)
    expected = torch.zeros(2, 3, bev.CELLS, bev.CELLS)
    with torch.no_grad():
        grid = view(features)
        for n, camera in enumerate(bev.CAMERAS):
            both = view.depth(features[:, 4 * n : 4 * n + 4])
            share, context = both[:, : len(bev.DEPTHS)].softmax(1), both[:, len(bev.DEPTHS) :]
            for row in range(rows):
                for column in range(columns):
                    pixel = np.array([[column + 0.5, row + 0.5]]) * bev.STRIDE
                    for d, (x, y, _) in enumerate(camera.lift(pixel, bev.DEPTHS.numpy())[:, 0]):
                        if max(abs(x), abs(y)) < bev.REACH:
                            cell = int(x + bev.REACH), int(y + bev.REACH)
                            lifted = share[:, d, row, column, None] * context[:, :, row, column]
                            expected[:, :, cell[0], cell[1]] += lifted
    torch.testing.assert_close(grid, expected, atol=1e-5, rtol=1e-4)


def test_scenes_are_drawn_alike_from_one_seed():
    first, again, other = (bev.draw_scenes(4, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    images, grids = first
    assert images.shape == (4, 3, 3, bev.HEIGHT, bev.WIDTH)
    assert grids.shape == (4, 2, bev.CELLS, bev.CELLS)
    assert (grids.sum((1, 2, 3)) > 0).all()
    assert set(grids.unique().tolist()) == {0.0, 1.0}


def test_the_example_prints_a_module_table_and_writes_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["bev.py", "--out", str(tmp_path / "run"), "--scenes", "32", "--epochs", "3"]
    )
    bev.main()
    printed = capsys.readouterr().out
    assert all(f"\n| {module} |" in printed for module in bev.MODULES)
    assert (tmp_path / "run" / "report.html").exists()
