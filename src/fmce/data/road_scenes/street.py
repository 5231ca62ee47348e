"""A random street for built-in road scenes: ground, background, and which things stand where.

Not given in the paper, which uses real videos: every measure and probability here. They are chosen
so that thin, far and hidden things and look-alike colours are common.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from fmce.data.road_scenes.canvas import (
    BUILDING,
    IGNORED,
    MARKING,
    ROAD,
    SIDEWALK,
    VEGETATION,
    Camera,
    Canvas,
    Colour,
    Dice,
)
from fmce.data.road_scenes.objects import (
    paint_building,
    paint_car,
    paint_lamp,
    paint_pedestrian,
    paint_pole,
    paint_sign,
    paint_traffic_light,
    paint_tree,
    pick,
)

_FAR_M = 150.0  # where the street ends
# Depths that bending edges are drawn through; the first lies below the lower edge of the picture.
_DEPTHS_M = (1.2, 3.0, 6.0, 10.0, 16.0, 26.0, 45.0, 80.0, _FAR_M)
_ASPHALT: tuple[Colour, ...] = ((88, 88, 92), (72, 72, 75), (105, 103, 100), (95, 88, 82))
_PAVING: tuple[Colour, ...] = ((135, 130, 125), (115, 110, 108), (150, 140, 125), (98, 96, 96))
_GRASS: tuple[Colour, ...] = ((85, 100, 50), (105, 105, 60), (65, 85, 45), (120, 110, 75))
_WHITE: Colour = (205, 205, 200)
_YELLOW: Colour = (200, 165, 60)

Thing = tuple[float, Callable[[], None]]


class Street(NamedTuple):
    """Measures in metres, x to the right of the camera: kerbs, outer edges of the walks, lanes."""

    left: float
    right: float
    left_walk: float
    right_walk: float
    lane_width: float
    urban: float


def paint_street(dice: Dice, height: int, width: int, *, night: bool) -> Canvas:
    """Paint a random street.

    Args:
        dice: Source of randomness; what stands where depends on nothing else.
        height: Pixels down.
        width: Pixels across.
        night: Whether lamps are on and windows lit.

    Returns:
        The canvas with everything painted far to near.
    """
    camera = Camera(
        width,
        height,
        focal=0.5 * width / math.tan(math.radians(dice.between(26, 38))),
        centre=width * dice.between(0.36, 0.64),
        horizon=height * dice.between(0.36, 0.56),
        above_ground=dice.between(1.2, 2.3),
        bend=dice.between(-1, 1) ** 3 * 2.5e-3,
    )
    canvas = Canvas(camera, night)
    street = _street(dice)
    _paint_background(canvas, dice, street)
    _paint_ground(canvas, dice, street)
    _paint_markings(canvas, dice, street)
    things = _roadside(canvas, dice, street) + _traffic(canvas, dice, street)
    for _, paint in sorted(things, key=lambda thing: -thing[0]):
        paint()
    if dice.chance(0.15):
        _paint_bonnet(canvas, dice)
    return canvas


def _street(dice: Dice) -> Street:
    lane = dice.between(2.9, 3.7)
    ours, others = 1 + dice.below(2), 1 + dice.below(2)
    right = lane * (ours - 0.5) + dice.between(-0.4, 0.6)
    left = right - lane * (ours + others)
    walk = dice.between(1.5, 4.5)
    return Street(left, right, left - walk, right + walk, lane, urban=dice.unit())


def _ribbon(canvas: Canvas, left: float, right: float, number: int) -> None:
    """Paint a strip of ground that follows the street."""
    canvas.ground([(left, z) for z in _DEPTHS_M] + [(right, z) for z in _DEPTHS_M[::-1]], number)


def _paint_background(canvas: Canvas, dice: Dice, street: Street) -> None:
    camera = canvas.camera
    for z in (400.0, 220.0):  # two rows of far trees or houses, along a ragged line
        trees = dice.chance(0.8 - 0.6 * street.urban)
        colour: Colour = (70, 85, 60) if trees else (125, 120, 118)
        part = canvas.facing_part(
            VEGETATION if trees else BUILDING, 0, dice.vary(colour, 20), z, grain=0.12
        )
        tall = dice.between(4, 22 if trees else 40)
        steps = 14
        outline = [(0.0, camera.horizon + 2)]
        for i in range(steps + 1):
            top = camera.horizon - camera.focal * tall * dice.between(0.3, 1.0) / z
            u, step = camera.width * i / steps, camera.width / steps
            outline += [(u, top)] if trees else [(u, top), (u + step, top)]
        canvas.polygon([*outline, (camera.width + 1.0, camera.horizon + 2)], part)


def _paint_ground(canvas: Canvas, dice: Dice, street: Street) -> None:
    paved = dice.chance(0.25 + 0.5 * street.urban)
    paving = pick(dice, _PAVING, 15)
    if paved:
        around = canvas.ground_part(SIDEWALK, dice.vary(paving, 15), 0.07)
    else:
        around = canvas.ground_part(VEGETATION, pick(dice, _GRASS, 15), 0.2)
    _ribbon(canvas, -400.0, 400.0, around)
    asphalt = pick(dice, _ASPHALT, 14)
    if dice.chance(0.3):  # a crossing street
        z = dice.between(12, 45)
        across = canvas.ground_part(ROAD, dice.vary(asphalt, 6), 0.06)
        canvas.ground([(-400, z), (400, z), (400, z + 8), (-400, z + 8)], across)
    walk = canvas.ground_part(SIDEWALK, paving, 0.07)
    kerb = canvas.ground_part(SIDEWALK, dice.vary((160, 158, 152), 25), 0.03)
    for edge, outer in ((street.left, street.left_walk), (street.right, street.right_walk)):
        if dice.chance(0.85):
            _ribbon(canvas, edge, outer, walk)
            _ribbon(canvas, edge, edge + math.copysign(0.2, edge), kerb)
    _ribbon(canvas, street.left, street.right, canvas.ground_part(ROAD, asphalt, 0.06))
    for _ in range(dice.below(5)):  # patches and covers in the road, some as bright as markings
        x, z = dice.between(street.left, street.right - 1), dice.between(4, 35)
        tone = dice.vary(asphalt, 40 if dice.chance(0.7) else 90)
        w, d = dice.between(0.5, 1.6), dice.between(0.6, 6)
        w = min(w, street.right - x)
        patch = canvas.ground_part(ROAD, tone, 0.06)
        canvas.ground([(x, z), (x + w, z), (x + w, z + d), (x, z + d)], patch)


def _paint_markings(canvas: Canvas, dice: Dice, street: Street) -> None:
    worn = dice.between(0.55, 1.0)  # worn paint is hardly brighter than the road

    def paint(colour: Colour) -> int:
        r, g, b = dice.vary(colour, 15)
        return canvas.ground_part(MARKING, (r * worn, g * worn, b * worn), 0.12)

    lanes = round((street.right - street.left) / street.lane_width)
    for i in range(lanes + 1):
        x = street.left + 0.15 + i * (street.right - street.left - 0.3) / lanes
        colour = _YELLOW if i == lanes // 2 and dice.chance(0.4) else _WHITE
        half = dice.between(0.09, 0.18)
        if i in (0, lanes) and dice.chance(0.45):
            continue  # no edge line
        if i in (0, lanes) or dice.chance(0.3):
            _ribbon(canvas, x - half, x + half, paint(colour))
        else:
            _dashes(canvas, x, half, paint(colour), dice)
    if dice.chance(0.25):
        z, part = dice.between(7, 30), paint(_WHITE)
        x = street.left + 0.4
        while x < street.right - 0.5:  # a zebra crossing
            canvas.ground([(x, z), (x + 0.5, z), (x + 0.5, z + 3.5), (x, z + 3.5)], part)
            x += 1.0


def _dashes(canvas: Canvas, x: float, half: float, part: int, dice: Dice) -> None:
    length, gap = dice.between(2, 4), dice.between(3, 7)
    z = dice.between(1.2, 1.2 + length + gap)
    while z < 70:
        corners = [(x - half, z), (x + half, z), (x + half, z + length), (x - half, z + length)]
        canvas.ground(corners, part)
        z += length + gap


def _roadside(canvas: Canvas, dice: Dice, street: Street) -> list[Thing]:
    """Buildings, trees, poles, lamps, signs and walkers on both sides."""
    things: list[Thing] = []
    for side, kerb, outer in (
        (-1.0, street.left, street.left_walk),
        (1.0, street.right, street.right_walk),
    ):
        things += _frontage(canvas, dice, street, side, outer)
        z = dice.between(5, 14)
        while z < 90:  # a row of lamps or trees along the kerb
            x = kerb + side * dice.between(0.4, 0.9)
            paint = paint_lamp if dice.chance(0.5) else paint_tree
            if dice.chance(0.55):
                things.append(_thing(paint, canvas, dice, x, z))
            z += dice.between(9, 22)
        for _ in range(dice.below(3)):
            x, z = kerb + side * dice.between(0.3, 0.8), dice.between(5, 45)
            paint = paint_sign if dice.chance(0.7) else paint_traffic_light
            things.append(_thing(paint, canvas, dice, x, z))
        for _ in range(dice.below(2 + round(3 * street.urban))):
            z = dice.between(5, 40)
            for _ in range(1 + dice.below(3)):  # alone or in a group
                x = dice.between(kerb + side * 0.4, outer)
                things.append(
                    _thing(paint_pedestrian, canvas, dice, x, z + dice.between(-0.6, 0.6))
                )
        if dice.chance(0.3):
            x, z = kerb + side * 0.5, dice.between(5, 30)
            things.append((z, lambda x=x, z=z: paint_pole(canvas, dice, x, z, 1.1)))  # type: ignore[misc]
    return things


def _frontage(canvas: Canvas, dice: Dice, street: Street, side: float, outer: float) -> list[Thing]:
    things: list[Thing] = []
    z = dice.between(2.5, 12)
    while z < 110:
        length = dice.between(7, 22)
        x = outer + side * dice.between(0.2, 4.0 + 6.0 * (1 - street.urban))
        if dice.chance(0.15 + 0.75 * street.urban):

            def building(x: float = x, near: float = z, far: float = z + length) -> None:
                paint_building(canvas, dice, x, (near, far), outward=side)

            # Its far end decides: what stands beside it nearer than that is painted later.
            things.append((z + length, building))
        else:
            for _ in range(1 + dice.below(3)):
                at = outer + side * dice.between(0.5, 9)
                things.append(_thing(paint_tree, canvas, dice, at, z + dice.unit() * length))
        z += length + (dice.between(1, 10) if dice.chance(0.4) else 0.0)
    return things


def _traffic(canvas: Canvas, dice: Dice, street: Street) -> list[Thing]:
    """Parked cars, cars in both directions and people on the road."""
    things: list[Thing] = []
    for side, kerb in ((-1.0, street.left), (1.0, street.right)):
        if not dice.chance(0.45):
            continue
        z = dice.between(4, 15)
        while z < 60:  # parked
            if dice.chance(0.6):
                x = kerb - side * dice.between(1.3, 1.5)  # its shadow stays on the road
                things.append(_car(canvas, dice, x, z, oncoming=side < 0))
            z += dice.between(5.5, 8)
    lanes = round((street.right - street.left) / street.lane_width)
    for i in range(lanes):
        middle = street.left + (i + 0.5) * (street.right - street.left) / lanes
        z = dice.between(6, 30)
        while z < 90 and dice.chance(0.6):
            x = middle + dice.between(-0.3, 0.3)
            things.append(_car(canvas, dice, x, z, oncoming=middle < -0.5 * street.lane_width))
            z += dice.between(8, 40)
    if dice.chance(0.35):
        z = dice.between(6, 28)
        for _ in range(1 + dice.below(3)):
            x = dice.between(street.left, street.right)
            things.append(_thing(paint_pedestrian, canvas, dice, x, z + dice.unit()))
    return things


def _thing(
    paint: Callable[[Canvas, Dice, float, float], None],
    canvas: Canvas,
    dice: Dice,
    x: float,
    z: float,
) -> Thing:
    def paint_if_seen() -> None:
        if canvas.camera.sees(x, z, margin=4.0):
            paint(canvas, dice, x, z)

    return z, paint_if_seen


def _car(canvas: Canvas, dice: Dice, x: float, z: float, *, oncoming: bool) -> Thing:
    return z, lambda: paint_car(canvas, dice, x, z, oncoming=oncoming)


def _paint_bonnet(canvas: Canvas, dice: Dice) -> None:
    """Paint the camera's own bonnet, which belongs to no class."""
    camera = canvas.camera
    part = canvas.facing_part(IGNORED, 0, dice.vary((60, 60, 65), 40), 1.0)
    centre = (camera.width * dice.between(0.4, 0.6), camera.height * 1.0)
    canvas.ellipse(
        centre,
        camera.width * dice.between(0.4, 0.6),
        camera.height * dice.between(0.05, 0.12),
        part,
    )
