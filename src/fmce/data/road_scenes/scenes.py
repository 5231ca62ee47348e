"""Built-in road scenes: random street images with exact masks and boxes, as unlimited as video.

Scene i is a pure function of (seed, i) and its size: nothing is stored or downloaded. The scenes
stand in for real data in demos and tests; they are no benchmark.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from fmce.data.road_scenes.canvas import (
    SCENE_BOX_CLASSES,
    SCENE_CLASSES,
    Canvas,
    Dice,
)
from fmce.data.road_scenes.light import draw_conditions, photograph
from fmce.data.road_scenes.street import paint_street

__all__ = [
    "SCENE_BOX_CLASSES",
    "SCENE_CLASSES",
    "Scene",
    "SceneBatch",
    "render_scene",
    "render_scenes",
]

_MIN_SIDE = 16


class Scene(NamedTuple):
    """A street image with exact labels.

    Attributes:
        image: uint8 (H, W, 3).
        mask: uint8 (H, W), ids into `SCENE_CLASSES`, 255 on the camera's own bonnet.
        boxes: float32 (n, 4), x1 y1 x2 y2 of each object's visible pixels, x2 and y2 exclusive; by
            object.
        box_labels: int64 (n,), ids into `SCENE_BOX_CLASSES`.
        box_pixels: int64 (n,), visible pixels of each object, at least 1; a detector may ignore
            few.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    box_labels: NDArray[np.int64]
    box_pixels: NDArray[np.int64]


class SceneBatch(NamedTuple):
    """Several scenes: images (N, H, W, 3), masks (N, H, W), the rest of `Scene` in tuples."""

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    boxes: tuple[NDArray[np.float32], ...]
    box_labels: tuple[NDArray[np.int64], ...]
    box_pixels: tuple[NDArray[np.int64], ...]


def render_scene(index: int, *, seed: int = 0, height: int = 64, width: int = 128) -> Scene:
    """Render one scene.

    Args:
        index: Which scene, at least 0.
        seed: Which world, at least 0; other seeds share no scene.
        height: Pixels down, at least 16.
        width: Pixels across, at least 16. The same index shows the same street at every size.

    Returns:
        The scene; the same for the same arguments.

    Raises:
        ValueError: A negative index or seed, or a side below 16.

    >>> render_scene(0).image.shape, render_scene(0).mask.shape
    ((64, 128, 3), (64, 128))
    """
    if index < 0 or seed < 0:
        raise ValueError(f"expected index and seed of at least 0, got {index} and {seed}.")
    if min(height, width) < _MIN_SIDE:
        raise ValueError(f"expected sides of at least {_MIN_SIDE} pixels, got {height}×{width}.")
    # Two streams: what stands in the scene must not depend on how many pixels draw noise.
    street_rng, pixel_rng = np.random.default_rng((seed, index)).spawn(2)
    dice = Dice(street_rng)
    conditions = draw_conditions(dice)
    canvas = paint_street(dice, height, width, night=conditions.night)
    parts = canvas.part_map()
    boxes, labels, pixels = _boxes(canvas, parts)
    image = photograph(canvas, parts, conditions, dice, pixel_rng)
    classes = np.array([part.class_id for part in canvas.parts], dtype=np.uint8)
    return Scene(image, classes[parts], boxes, labels, pixels)


def render_scenes(
    indices: Iterable[int], *, seed: int = 0, height: int = 64, width: int = 128
) -> SceneBatch:
    """Render several scenes; arguments and errors as in `render_scene`.

    Raises:
        ValueError: No index, or as in `render_scene`.
    """
    scenes = [render_scene(i, seed=seed, height=height, width=width) for i in indices]
    if not scenes:
        raise ValueError("expected at least one index, got none.")
    images, masks, boxes, labels, pixels = zip(*scenes, strict=True)
    return SceneBatch(np.stack(images), np.stack(masks), boxes, labels, pixels)


def _boxes(
    canvas: Canvas, parts: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return boxes, labels and pixel counts of the objects with a visible pixel."""
    objects = np.array([part.instance for part in canvas.parts])[parts]
    counts = np.bincount(objects.ravel(), minlength=len(canvas.object_classes) + 1)[1:]
    seen = np.flatnonzero(counts)
    places = find_objects(objects, max_label=len(canvas.object_classes))
    boxes = np.zeros((len(seen), 4), dtype=np.float32)
    for row, number in enumerate(seen):
        rows, columns = places[number]
        boxes[row] = columns.start, rows.start, columns.stop, rows.stop
    ids = {name: i for i, name in enumerate(SCENE_BOX_CLASSES)}
    names = [SCENE_CLASSES[canvas.object_classes[number]] for number in seen]
    labels = np.array([ids[name] for name in names], dtype=np.int64)
    return boxes, labels, counts[seen].astype(np.int64)
