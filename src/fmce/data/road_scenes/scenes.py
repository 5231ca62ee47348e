"""Built-in road scenes: random street images with exact masks and boxes, a pure function of (seed, index).

They stand in for real data in demos and tests; they are no benchmark.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.ndimage import find_objects

from fmce.data.road_scenes.canvas import SCENE_BOX_CLASSES, SCENE_CLASSES, Canvas
from fmce.data.road_scenes.street import paint_street

_MIN_SIDE = 16
# Not given in the paper, which uses real videos: light by time of day, as factors of a colour, and the sky
# at the top of the picture and at the horizon. A fifth of the scenes is at night and a fifth at dusk.
_NIGHT = ((0.26, 0.28, 0.36), (10, 12, 26), (42, 40, 46))
_DUSK = ((0.68, 0.55, 0.55), (75, 85, 125), (225, 160, 115))
_OVERCAST = ((0.75, 0.77, 0.8), (165, 170, 178), (195, 198, 200))
_SUNNY = ((1.05, 1.02, 0.97), (90, 135, 200), (200, 215, 230))


class Scene(NamedTuple):
    """A street image with exact labels.

    Attributes:
        image: uint8 (H,W,3).
        mask: uint8 (H,W), ids into `SCENE_CLASSES`, 255 on the camera's own bonnet.
        boxes: float32 (n,4), x1 y1 x2 y2 of the visible pixels of each object, x2 and y2 exclusive.
        box_labels: int64 (n,), ids into `SCENE_BOX_CLASSES`.
        box_pixels: int64 (n,), visible pixels of each object, at least 1.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    box_labels: NDArray[np.int64]
    box_pixels: NDArray[np.int64]


class SceneBatch(NamedTuple):
    """Several scenes: images (N,H,W,3), masks (N,H,W), the rest of `Scene` in tuples."""

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    boxes: tuple[NDArray[np.float32], ...]
    box_labels: tuple[NDArray[np.int64], ...]
    box_pixels: tuple[NDArray[np.int64], ...]


def render_scene(index: int, *, seed: int = 0, height: int = 64, width: int = 128) -> Scene:
    """Render scene `index` of a world, at least 0; two worlds, by their seed of at least 0, share no scene.

    The same index shows the same street at every size.

    Raises:
        ValueError: If index or seed is negative, or a side below 16 pixels.

    >>> render_scene(0).image.shape, render_scene(0).mask.shape
    ((64, 128, 3), (64, 128))
    """
    if index < 0 or seed < 0:
        raise ValueError(f"expected index and seed of at least 0, got {index} and {seed}")
    if min(height, width) < _MIN_SIDE:
        raise ValueError(f"expected sides of at least {_MIN_SIDE} pixels, got {height}×{width}")
    # Two streams: what stands in the scene must not depend on how many pixels draw noise.
    street_rng, pixel_rng = np.random.default_rng((seed, index)).spawn(2)
    canvas = paint_street(street_rng, height, width)
    parts = canvas.part_map()
    boxes, labels, pixels = _boxes(canvas, parts)
    image = _photograph(canvas, parts, pixel_rng)
    classes = np.array([part.class_id for part in canvas.parts], dtype=np.uint8)
    return Scene(image, classes[parts], boxes, labels, pixels)


def render_scenes(
    indices: Iterable[int], *, seed: int = 0, height: int = 64, width: int = 128
) -> SceneBatch:
    """Render several scenes.

    Raises:
        ValueError: If there is no index, or as in `render_scene`.
    """
    scenes = [render_scene(i, seed=seed, height=height, width=width) for i in indices]
    if not scenes:
        raise ValueError("expected at least one index, got none")
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
    names = (SCENE_CLASSES[canvas.object_classes[number]] for number in seen)
    labels = np.array([SCENE_BOX_CLASSES.index(name) for name in names], dtype=np.int64)
    return boxes, labels, counts[seen].astype(np.int64)


def _photograph(
    canvas: Canvas, parts: NDArray[np.int32], pixel_rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Turn part numbers (H,W) into an image uint8 (H,W,3): textured colours, sky, light, blur and noise."""
    rng, (height, width) = canvas.rng, parts.shape
    time, clear = rng.random(2)
    day = _SUNNY if clear < 0.4 else _OVERCAST
    light, zenith, haze = (
        np.array(value, np.float32)
        for value in (_NIGHT if time < 0.2 else _DUSK if time < 0.4 else day)
    )
    light *= rng.uniform(0.6, 1.35) * rng.uniform(0.8, 1.2, 3)
    veil = rng.uniform(-0.4, 0.65)  # of mist, in most scenes
    grain = np.array([part.grain for part in canvas.parts], np.float32)[parts]
    picture = np.array([part.colour for part in canvas.parts], np.float32)[parts]
    picture *= light * (1 + grain * pixel_rng.standard_normal(parts.shape, np.float32))[..., None]
    picture += max(0.0, veil) * (haze * light.max() - picture)
    up = np.clip(1 - np.arange(height) / max(canvas.camera.horizon, 1), 0, 1)[:, None, None] ** 0.7
    sky = haze + (zenith - haze) * up  # (H,1,3)
    np.copyto(picture, sky, where=(parts == 0)[..., None])
    # A lens blurs an angle, not a number of pixels.
    blur = ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8) * max(1.0, height / 128))
    soft = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).filter(blur)
    noise = pixel_rng.standard_normal((height, width, 3), np.float32)
    noise = np.asarray(soft) + rng.uniform(2, 10) * noise
    image: NDArray[np.uint8] = np.clip(noise, 0, 255).astype(np.uint8)
    return image
