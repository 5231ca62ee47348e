"""Built-in scenes: pure functions of their index, exact boxes, every class, variety, sizes."""

import doctest

import numpy as np
import pytest
from scipy.ndimage import label

from fmce.data.road_scenes import scenes as module
from fmce.data.road_scenes.canvas import (
    BUILDING,
    CAR,
    SCENE_BOX_CLASSES,
    SCENE_CLASSES,
    SKY,
    Camera,
    Canvas,
    Part,
)
from fmce.data.road_scenes.objects import paint_car, paint_pedestrian
from fmce.data.road_scenes.scenes import render_scene, render_scenes


@pytest.fixture(scope="module")
def batch():
    return render_scenes(range(40), seed=3)


def _canvas(seed=0):
    return Canvas(Camera(128, 64, 100.0, 64.0, 30.0, 1.5, 0.0), np.random.default_rng(seed))


def _hide_left_half(canvas):
    """Paint a wall over columns 0 … 63."""
    canvas.polygon([(0, 0), (63, 0), (63, 63), (0, 63)], Part(BUILDING, (0, 0, 0)))


def test_a_scene_is_a_pure_function_of_seed_and_index(batch):
    again = render_scene(7, seed=3)
    np.testing.assert_array_equal(again.image, batch.images[7])
    np.testing.assert_array_equal(again.mask, batch.masks[7])
    np.testing.assert_array_equal(again.boxes, batch.boxes[7])


def test_other_seeds_and_indices_give_other_scenes(batch):
    assert len({image.tobytes() for image in batch.images}) == 40
    assert not np.array_equal(render_scene(7, seed=4).mask, batch.masks[7])
    assert not np.array_equal(render_scene(3, seed=7).mask, batch.masks[7])


def test_images_masks_boxes_and_labels_have_their_types_and_ranges(batch):
    assert (batch.images.shape, batch.images.dtype) == ((40, 64, 128, 3), np.uint8)
    assert (batch.masks.shape, batch.masks.dtype) == ((40, 64, 128), np.uint8)
    assert set(np.unique(batch.masks)) <= {*range(len(SCENE_CLASSES)), 255}
    for boxes, labels in zip(batch.boxes, batch.box_labels, strict=True):
        assert (boxes.dtype, labels.dtype) == (np.float32, np.int64)
        assert boxes.shape == (len(labels), 4)
        assert ((boxes[:, :2] >= 0) & (boxes[:, 2:] <= (128, 64))).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_every_class_and_the_ignored_bonnet_occur(batch):
    assert set(np.unique(batch.masks)) == {*range(len(SCENE_CLASSES)), 255}
    assert set(np.concatenate(batch.box_labels)) == set(range(len(SCENE_BOX_CLASSES)))


def test_all_pixels_of_a_box_class_lie_in_boxes_of_that_class(batch):
    for mask, boxes, labels in zip(batch.masks, batch.boxes, batch.box_labels, strict=True):
        for box_class, name in enumerate(SCENE_BOX_CLASSES):
            covered = np.zeros(mask.shape, dtype=bool)
            for x1, y1, x2, y2 in boxes[labels == box_class].astype(int):
                covered[y1:y2, x1:x2] = True
            assert covered[mask == SCENE_CLASSES.index(name)].all()


def test_visible_pixels_of_the_objects_add_up_to_their_classes(batch):
    for mask, labels, pixels in zip(batch.masks, batch.box_labels, batch.box_pixels, strict=True):
        for box_class, name in enumerate(SCENE_BOX_CLASSES):
            expected = (mask == SCENE_CLASSES.index(name)).sum()
            assert pixels[labels == box_class].sum() == expected


def test_the_box_of_a_lone_object_is_its_extent_in_the_mask(batch):
    """Where one component of a class touches one box only, both must be the same rectangle."""
    compared = 0
    for mask, boxes, labels in zip(batch.masks, batch.boxes, batch.box_labels, strict=True):
        cars = boxes[labels == SCENE_BOX_CLASSES.index("car")]
        components, count = label(mask == CAR, structure=np.ones((3, 3)))
        if len(cars) == count == 1:
            rows, columns = np.nonzero(components)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert cars[0].tolist() == extent
            compared += 1
    assert compared >= 1


def test_a_hidden_part_of_an_object_is_outside_its_box():
    canvas = _canvas()
    paint_car(canvas, 0.0, 12.0, oncoming=False)
    (whole,), _, (pixels,) = module._boxes(canvas, canvas.part_map())
    _hide_left_half(canvas)
    (left,), _, (left_pixels,) = module._boxes(canvas, canvas.part_map())
    assert (left[0], *left[2:]) == (64.0, *whole[2:])
    assert 0 < left_pixels < pixels


def test_a_fully_hidden_object_has_no_box():
    canvas = _canvas()
    paint_pedestrian(canvas, -5.0, 30.0)
    assert len(module._boxes(canvas, canvas.part_map())[0]) == 1
    _hide_left_half(canvas)
    paint_car(canvas, 2.0, 6.0, oncoming=True)
    assert module._boxes(canvas, canvas.part_map())[1].tolist() == [SCENE_BOX_CLASSES.index("car")]


def test_a_car_has_the_size_its_distance_gives():
    """A car 1.64 to 1.9 m wide (2.3 for a van) at 10 m and f = 100 px is 16 to 23 px wide."""
    canvas = _canvas(seed=1)
    paint_car(canvas, 0.0, 10.0, oncoming=True)
    ((x1, _, x2, y2),) = module._boxes(canvas, canvas.part_map())[0]
    assert 16 <= x2 - x1 <= 26
    assert y2 == pytest.approx(30 + 100 * 1.5 / 10, abs=1.5)  # it stands on the ground


def test_the_same_index_shows_the_same_street_at_another_size():
    small, large = render_scene(5), render_scene(5, height=128, width=256)
    assert large.image.shape == (128, 256, 3)
    # Outlines differ by rounding only, so few pixels of the reduced mask differ.
    assert (large.mask[::2, ::2] == small.mask).mean() > 0.93
    assert abs(len(large.boxes) - len(small.boxes)) <= 2


@pytest.mark.parametrize(("height", "width"), [(16, 16), (37, 91), (96, 48)])
def test_any_size_from_16_pixels_is_rendered(height, width):
    assert render_scene(2, height=height, width=width).mask.shape == (height, width)


def test_light_varies_from_night_to_day(batch):
    brightness = batch.images.mean(axis=(1, 2, 3))
    assert brightness.min() < 45
    assert brightness.max() > 110


def test_colour_alone_does_not_give_the_classes_away(batch):
    """Nearest mean colour, fitted on these very pixels, gets less than half of them right."""
    pixels, labels = batch.images.reshape(-1, 3).astype(float), batch.masks.ravel()
    means = np.stack([pixels[labels == c].mean(axis=0) for c in range(len(SCENE_CLASSES))])
    nearest = ((pixels[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == labels)[labels != 255].mean() < 0.5


def test_the_sky_is_never_below_the_street(batch):
    assert not (batch.masks[:, -8:] == SKY).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"index": -1}, "index and seed"),
        ({"index": 0, "seed": -2}, "index and seed"),
        ({"index": 0, "height": 8}, "at least 16 pixels, got 8×128"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        render_scene(**arguments)


def test_no_index_is_refused():
    with pytest.raises(ValueError, match="at least one index"):
        render_scenes([])


def test_the_docstrings_examples_hold():
    assert doctest.testmod(module).failed == 0
