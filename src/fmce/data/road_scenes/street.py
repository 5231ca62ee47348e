"""A random street for built-in road scenes: ground, background, and which things stand where.

Not given in the paper: every measure here, chosen so that thin, far and hidden things and look-alikes are common.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from fmce.data.road_scenes import canvas as kinds
from fmce.data.road_scenes import objects
from fmce.data.road_scenes.canvas import Camera, Canvas, Palette, Part

# Depths that bending edges are drawn through; the first lies below the lower edge of the picture.
_DEPTHS_M = (1.2, 3.0, 6.0, 10.0, 16.0, 26.0, 45.0, 80.0, 150.0)
_ASPHALT: Palette = ((88, 88, 92), (72, 72, 75), (105, 103, 100), (95, 88, 82))
_PAVING: Palette = ((135, 130, 125), (115, 110, 108), (150, 140, 125), (98, 96, 96))
_GRASS: Palette = ((85, 100, 50), (105, 105, 60), (65, 85, 45), (120, 110, 75))

Thing = tuple[float, Callable[[], None]]
"""A depth in metres, and what paints the thing that stands there."""


class Street(NamedTuple):
    """Measures in metres, x to the right of the camera: kerbs, width of the walks; urban in [0, 1]."""

    left: float
    right: float
    walk: float
    lanes: int
    urban: float

    @property
    def sides(self) -> tuple[tuple[float, float], ...]:
        """Direction outward and kerb, left and right."""
        return (-1.0, self.left), (1.0, self.right)

    def lane_edge(self, number: float) -> float:
        """Return x of the left edge of a lane, counted from the left."""
        return self.left + number * (self.right - self.left) / self.lanes


def paint_street(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """Paint a random street, far to near; its size in pixels changes nothing else."""
    camera = Camera(
        width,
        height,
        focal=0.5 * width / math.tan(math.radians(rng.uniform(26, 38))),
        centre=width * rng.uniform(0.36, 0.64),
        horizon=height * rng.uniform(0.36, 0.56),
        above_ground=rng.uniform(1.2, 2.3),
        bend=rng.uniform(-1, 1) ** 3 * 2.5e-3,
    )
    canvas = Canvas(camera, rng)
    lane, ours, others = rng.uniform(2.9, 3.7), int(rng.integers(1, 3)), int(rng.integers(1, 3))
    right = lane * (ours - 0.5) + rng.uniform(-0.4, 0.6)
    left = right - lane * (ours + others)
    street = Street(left, right, rng.uniform(1.5, 4.5), ours + others, urban=rng.random())
    _paint_background(canvas, street)
    _paint_ground(canvas, street)
    _paint_markings(canvas, street)
    things = [*_roadside(canvas, street), *_traffic(canvas, street)]
    for _, paint in sorted(things, key=lambda thing: -thing[0]):
        paint()
    if canvas.chance(0.15):  # the camera's own bonnet belongs to no class
        left, right, top = rng.uniform(0, 0.2), rng.uniform(0.8, 1), rng.uniform(0.88, 0.95)
        corners = ((left, 1.0), (left + 0.1, top), (right - 0.1, top), (right, 1.0))
        bonnet = Part(kinds.IGNORED, canvas.vary((60, 60, 65), 40))
        canvas.polygon([(u * width, v * height) for u, v in corners], bonnet)
    return canvas


def _ribbon(canvas: Canvas, left: float, right: float, part: Part) -> None:
    """Paint a strip of ground that follows the street."""
    canvas.ground([(left, z) for z in _DEPTHS_M] + [(right, z) for z in _DEPTHS_M[::-1]], part)


def _paint_background(canvas: Canvas, street: Street) -> None:
    """Paint two rows of far trees or houses along a ragged line."""
    camera, steps = canvas.camera, 14
    for z in (400.0, 220.0):
        trees = canvas.chance(0.8 - 0.6 * street.urban)
        colour = canvas.vary((70, 85, 60) if trees else (125, 120, 118), 20)
        tall, step = canvas.rng.uniform(4, 22 if trees else 40), camera.width / steps
        outline = [(0.0, camera.horizon + 2)]
        for i, part in enumerate(canvas.rng.uniform(0.3, 1.0, steps + 1)):
            top = camera.horizon - camera.focal * tall * part / z
            outline += [(i * step, top)] if trees else [(i * step, top), ((i + 1) * step, top)]
        outline.append((camera.width + 1.0, camera.horizon + 2))
        canvas.polygon(
            outline, Part(kinds.VEGETATION if trees else kinds.BUILDING, colour, grain=0.12)
        )


def _paint_ground(canvas: Canvas, street: Street) -> None:
    paving = canvas.choose(_PAVING, 15)
    around = Part(kinds.SIDEWALK, canvas.vary(paving, 15))
    if not canvas.chance(0.25 + 0.5 * street.urban):
        around = Part(kinds.VEGETATION, canvas.choose(_GRASS, 15), grain=0.2)
    _ribbon(canvas, -400.0, 400.0, around)
    for side, kerb in street.sides:
        if canvas.chance(0.85):
            _ribbon(canvas, kerb, kerb + side * street.walk, Part(kinds.SIDEWALK, paving))
    _ribbon(canvas, street.left, street.right, Part(kinds.ROAD, canvas.choose(_ASPHALT, 14)))


def _paint_markings(canvas: Canvas, street: Street) -> None:
    rng = canvas.rng
    worn = 205 * rng.uniform(0.55, 1.0)  # worn paint is hardly brighter than the road
    for i in range(street.lanes + 1):
        x, half = street.lane_edge(i), rng.uniform(0.09, 0.18)
        part = Part(kinds.MARKING, canvas.vary((worn, worn, worn), 10), grain=0.12)
        if i in (0, street.lanes):
            if canvas.chance(0.55):
                edge = x + (0.15 if i == 0 else -0.15)
                _ribbon(canvas, edge - half, edge + half, part)
        elif canvas.chance(0.3):
            _ribbon(canvas, x - half, x + half, part)
        else:
            length, gap = rng.uniform(2, 4), rng.uniform(3, 7)
            for z in np.arange(rng.uniform(1.2, 1.2 + length + gap), 70, length + gap):
                far = z + length
                corners = [(x - half, z), (x + half, z), (x + half, far), (x - half, far)]
                canvas.ground(corners, part)


def _roadside(canvas: Canvas, street: Street) -> Iterator[Thing]:
    """Yield buildings, trees, lamps, signs and walkers of both sides."""
    rng = canvas.rng
    for side, kerb in street.sides:
        yield from _frontage(canvas, street, side, kerb + side * street.walk)
        z = rng.uniform(5, 14)
        while z < 90:  # a row of lamps or trees along the kerb
            paint = objects.paint_lamp if canvas.chance(0.5) else objects.paint_tree
            if canvas.chance(0.55):
                yield z, partial(paint, canvas, kerb + side * rng.uniform(0.4, 0.9), z)
            z += rng.uniform(9, 22)
        for _ in range(rng.integers(3)):
            z = rng.uniform(5, 45)
            yield z, partial(objects.paint_sign, canvas, kerb + side * rng.uniform(0.3, 0.8), z)
        for _ in range(rng.integers(2 + round(3 * street.urban))):
            outer = kerb + side * street.walk
            yield from _people(canvas, kerb + side * 0.4, outer, rng.uniform(5, 40))


def _frontage(canvas: Canvas, street: Street, side: float, outer: float) -> Iterator[Thing]:
    """Yield buildings or trees behind the walk, one stretch of the street after another."""
    rng = canvas.rng
    z = rng.uniform(2.5, 12)
    while z < 110:
        far = z + rng.uniform(7, 22)
        if canvas.chance(0.15 + 0.75 * street.urban):
            x = outer + side * rng.uniform(0.2, 4.0 + 6.0 * (1 - street.urban))
            # Its far end decides: what stands beside it nearer than that is painted later.
            yield far, partial(objects.paint_building, canvas, x, (z, far), side)
        else:
            for at in rng.uniform(z, far, rng.integers(1, 4)):
                yield (
                    at,
                    partial(objects.paint_tree, canvas, outer + side * rng.uniform(0.5, 9), at),
                )
        z = far + (rng.uniform(1, 10) if canvas.chance(0.4) else 0.0)


def _traffic(canvas: Canvas, street: Street) -> Iterator[Thing]:
    """Yield parked cars, cars in both directions and people on the road."""
    rng = canvas.rng
    for side, kerb in street.sides:
        z = rng.uniform(4, 15) if canvas.chance(0.45) else math.inf
        while z < 60:  # parked, with the shadow on the road
            if canvas.chance(0.6):
                yield (
                    z,
                    partial(
                        objects.paint_car, canvas, kerb - side * rng.uniform(1.3, 1.5), z, side < 0
                    ),
                )
            z += rng.uniform(5.5, 8)
    for i in range(street.lanes):
        middle, z = street.lane_edge(i + 0.5), rng.uniform(6, 30)
        while z < 90 and canvas.chance(0.6):
            yield (
                z,
                partial(
                    objects.paint_car, canvas, middle + rng.uniform(-0.3, 0.3), z, middle < -1.6
                ),
            )
            z += rng.uniform(8, 40)
    if canvas.chance(0.35):
        yield from _people(canvas, street.left, street.right, rng.uniform(6, 28))


def _people(canvas: Canvas, start: float, end: float, z: float) -> Iterator[Thing]:
    """Yield one to three people between two x, about z ahead."""
    for _ in range(canvas.rng.integers(1, 4)):
        at = z + canvas.rng.uniform(-0.6, 0.6)
        yield (
            at,
            partial(
                objects.paint_pedestrian, canvas, start + (end - start) * canvas.rng.random(), at
            ),
        )
