"""The things in a built-in road scene: cars, pedestrians, signs, poles, trees, buildings.

Each function paints one thing at x metres to the right and z metres ahead. Not given in the paper,
which uses real videos: every measure, colour and probability here.
"""

import math
from collections.abc import Sequence

from fmce.data.road_scenes.canvas import (
    BUILDING,
    CAR,
    PEDESTRIAN,
    POLE,
    ROAD,
    SIGN,
    VEGETATION,
    Canvas,
    Colour,
    Dice,
)

_BUILDINGS: tuple[Colour, ...] = (
    *((150, 90, 70), (170, 160, 145), (120, 120, 125), (190, 175, 140), (100, 80, 70)),
    *((205, 200, 190), (140, 150, 160), (95, 105, 95), (175, 120, 95), (85, 95, 110)),
)
_CARS: tuple[Colour, ...] = (
    *((25, 25, 28), (225, 225, 225), (150, 152, 156), (90, 92, 96), (150, 25, 25), (30, 55, 120)),
    *((60, 75, 60), (190, 160, 60), (120, 85, 60), (60, 130, 150)),
)
_CLOTHES: tuple[Colour, ...] = (
    *((30, 30, 35), (50, 60, 90), (120, 40, 40), (200, 200, 195), (90, 85, 75), (180, 140, 40)),
    *((60, 90, 60), (150, 90, 120), (110, 115, 120), (220, 90, 30)),
)
_LEAVES: tuple[Colour, ...] = (
    *((60, 85, 40), (45, 70, 35), (85, 100, 45), (110, 95, 45), (70, 80, 60)),
)
_PLATES: tuple[Colour, ...] = (
    *((180, 30, 30), (40, 70, 160), (215, 180, 40), (220, 220, 220), (30, 110, 60)),
    (130, 130, 130),
)
_GLASS: Colour = (45, 52, 60)
_TYRE: Colour = (18, 18, 20)
_STEEL: Colour = (105, 108, 110)


def pick(dice: Dice, colours: Sequence[Colour], spread: float = 18.0) -> Colour:
    """Return one of the colours, varied."""
    return dice.vary(colours[dice.below(len(colours))], spread)


def shade(colour: Colour, factor: float) -> Colour:
    """Return the colour, darker below 1 and lighter above."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def paint_building(
    canvas: Canvas, dice: Dice, x: float, z: tuple[float, float], *, outward: float
) -> None:
    """Paint a building whose front runs along the street from z[0] to z[1] and whose end faces us.

    Args:
        canvas: What to paint on.
        dice: Source of randomness.
        x: Where its front stands.
        z: Near and far end.
        outward: 1 on the right of the street, −1 on the left.
    """
    camera = canvas.camera
    near, far = z
    colour = pick(dice, _BUILDINGS, 25)
    top = dice.between(4, 9) if dice.chance(0.4) else dice.between(9, 26)
    lit = dice.between(0.05, 0.6) if canvas.night else 0.0
    windows = dice.chance(0.85)
    panes = (dice.between(1.6, 4.0), dice.between(2.6, 3.8), lit) if windows else (0.0, 0.0, 0.0)
    low_near, high_near = camera.project(x, 0, near), camera.project(x, top, near)
    low_far, high_far = camera.project(x, 0, far), camera.project(x, top, far)
    if abs(low_far[0] - low_near[0]) >= 1:
        # 1/z is linear in u along an upright plane, so its two ends give it everywhere.
        slope = (1 / far - 1 / near) / (low_far[0] - low_near[0])
        depth = (1 / near - slope * low_near[0], slope, 0.0)
        front = canvas.plane_part(BUILDING, colour, depth, panes=panes)
        canvas.polygon([low_near, high_near, high_far, low_far], front)
    end = canvas.facing_part(BUILDING, 0, shade(colour, 0.8), near, panes=panes)
    out = x + outward * dice.between(8, 16)
    canvas.facing([(x, 0), (x, top), (out, top), (out, 0)], near, end)
    if dice.chance(0.35):  # a roof
        roof = canvas.facing_part(BUILDING, 0, shade(colour, 0.55), near)
        ridge = top + dice.between(1.5, 4)
        canvas.facing([(x, top), ((x + out) / 2, ridge), (out, top)], near, roof)
        canvas.polygon([high_near, camera.project((x + out) / 2, ridge, near), high_far], roof)


def paint_tree(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Paint a tree or, one time in four, a bush; trunk and leaves are vegetation."""
    bush = dice.chance(0.25)
    leaves = pick(dice, _LEAVES, 12)
    crown = dice.between(0.5, 1.0) if bush else dice.between(1.2, 3.0)
    centre = crown * 0.7 if bush else dice.between(3.0, 5.5)
    if not bush:
        wood = canvas.facing_part(VEGETATION, 0, dice.vary((75, 60, 48), 15), z)
        half = dice.between(0.1, 0.22)
        canvas.facing([(x - half, 0), (x + half, 0), (x, centre)], z, wood)
    scale = canvas.camera.focal / z
    for light in (0.75, 1.0, 1.2):
        part = canvas.facing_part(VEGETATION, 0, shade(leaves, light), z, grain=0.22)
        for _ in range(3 if z < 40 else 1):
            at = (x + dice.between(-0.6, 0.6) * crown, centre + dice.between(-0.5, 0.6) * crown)
            radius = crown * dice.between(0.4, 0.75) * scale
            canvas.ellipse(
                canvas.camera.project(*at, z), radius, radius * dice.between(0.6, 1.0), part
            )


def paint_pole(canvas: Canvas, dice: Dice, x: float, z: float, top: float) -> None:
    """Paint an upright pole of the given height in metres."""
    part = canvas.facing_part(POLE, 0, dice.vary(_STEEL, 40), z)
    wide = dice.between(0.1, 0.24) * canvas.camera.focal / z
    canvas.line([canvas.camera.project(x, 0, z), canvas.camera.project(x, top, z)], wide, part)


def paint_lamp(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Paint a street lamp with an arm over the road; it shines at night."""
    top = dice.between(5.5, 9.0)
    paint_pole(canvas, dice, x, z, top)
    tip = x - math.copysign(dice.between(0.8, 2.5), x)
    arm = canvas.facing_part(POLE, 0, _STEEL, z)
    ends = [canvas.camera.project(x, top, z), canvas.camera.project(tip, top + 0.3, z)]
    canvas.line(ends, 0.12 * canvas.camera.focal / z, arm)
    if canvas.night:
        canvas.lights.append((*ends[1], 3.2 * canvas.camera.focal / z, 1.0))


def _plate_outline(kind: int, size: float) -> list[tuple[float, float]]:
    """Return a sign's outline around its centre: triangle, square, wide board, octagon or disc."""
    if kind == 0:
        return [(-size, -0.8 * size), (size, -0.8 * size), (0, size)]
    if kind == 1:
        return [(-size, -size), (size, -size), (size, size), (-size, size)]
    if kind == 2:
        return [
            (-2 * size, -0.7 * size),
            (2 * size, -0.7 * size),
            (2 * size, 0.7 * size),
            (-2 * size, 0.7 * size),
        ]
    corners = 8 if kind == 3 else 12
    angles = [math.tau * (i + 0.5) / corners for i in range(corners)]
    return [(size * math.cos(a), size * math.sin(a)) for a in angles]


def paint_sign(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Paint a traffic sign on a pole: the plate is one object, seen from its back now and then."""
    kind, size = dice.below(5), dice.between(0.35, 0.75)
    middle = dice.between(1.9, 3.2)
    paint_pole(canvas, dice, x, z, middle)
    instance = canvas.new_object(SIGN)
    colour = pick(dice, _PLATES, 20)
    rim = canvas.facing_part(SIGN, instance, colour, z, glow=0.15)
    outline = _plate_outline(kind, size)
    canvas.facing([(x + a, middle + b) for a, b in outline], z, rim)
    if dice.chance(0.8):
        face = dice.vary((215, 215, 215) if dice.chance(0.6) else colour, 25)
        inner = canvas.facing_part(SIGN, instance, face, z, glow=0.2)
        canvas.facing([(x + 0.6 * a, middle + 0.6 * b) for a, b in outline], z, inner)


def paint_traffic_light(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Paint a traffic light; its box counts as a sign."""
    middle = dice.between(2.6, 5.0)
    paint_pole(canvas, dice, x, z, middle)
    instance = canvas.new_object(SIGN)
    box = canvas.facing_part(SIGN, instance, dice.vary((30, 32, 30), 15), z)
    canvas.facing(
        [
            (x - 0.2, middle - 0.5),
            (x + 0.2, middle - 0.5),
            (x + 0.2, middle + 0.5),
            (x - 0.2, middle + 0.5),
        ],
        z,
        box,
    )
    lamps: tuple[Colour, ...] = ((255, 50, 40), (255, 190, 50), (60, 240, 140))
    on = dice.below(3)
    lamp = canvas.facing_part(SIGN, instance, lamps[on], z, glow=0.9)
    at = canvas.camera.project(x, middle + 0.3 - 0.3 * on, z)
    radius = 0.13 * canvas.camera.focal / z
    canvas.ellipse(at, radius, radius, lamp)


def paint_pedestrian(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Paint a standing or walking person."""
    instance = canvas.new_object(PEDESTRIAN)
    tall = dice.between(1.0, 1.4) if dice.chance(0.15) else dice.between(1.55, 1.95)
    half, stride = 0.13 * tall, dice.between(0.02, 0.2) * tall
    top, legs = pick(dice, _CLOTHES), pick(dice, _CLOTHES)
    skin = dice.vary((170, 125, 100) if dice.chance(0.6) else (95, 65, 50), 20)
    lower = canvas.facing_part(PEDESTRIAN, instance, shade(legs, 0.8), z)
    for side in (-1, 1):
        foot, hip = x + side * stride, x + side * 0.05 * tall
        canvas.facing(
            [
                (foot - 0.05 * tall, 0),
                (foot + 0.05 * tall, 0),
                (hip + 0.06 * tall, 0.5 * tall),
                (hip - 0.06 * tall, 0.5 * tall),
            ],
            z,
            lower,
        )
    body = canvas.facing_part(PEDESTRIAN, instance, top, z)
    canvas.facing(
        [
            (x - 0.8 * half, 0.45 * tall),
            (x + 0.8 * half, 0.45 * tall),
            (x + half, 0.83 * tall),
            (x - half, 0.83 * tall),
        ],
        z,
        body,
    )
    head = canvas.facing_part(PEDESTRIAN, instance, skin, z)
    radius = 0.075 * tall * canvas.camera.focal / z
    canvas.ellipse(canvas.camera.project(x, 0.92 * tall, z), 0.85 * radius, radius, head)


def paint_car(canvas: Canvas, dice: Dice, x: float, z: float, *, oncoming: bool) -> None:
    """Paint a car or, one time in six, a van, along the street, with its shadow on the road."""
    van = dice.chance(1 / 6)
    half = dice.between(0.95, 1.2) if van else dice.between(0.82, 0.95)
    long = dice.between(5.0, 7.5) if van else dice.between(3.7, 4.9)
    tall = dice.between(2.1, 3.2) if van else dice.between(1.38, 1.7)
    belt = tall * (0.45 if van else 0.56)
    inset = 0.04 if van else 0.16
    colour = pick(dice, _CARS, 15)
    dark = canvas.ground_part(ROAD, (22, 22, 24))
    canvas.ground(
        [
            (x - half - 0.1, z),
            (x + half + 0.1, z),
            (x + half + 0.1, z + long),
            (x - half - 0.1, z + long),
        ],
        dark,
    )
    instance = canvas.new_object(CAR)
    _paint_car_side(canvas, instance, colour, x, z, (half, long, tall, belt, inset))
    paint = canvas.facing_part(CAR, instance, colour, z)
    tyre = canvas.facing_part(CAR, instance, _TYRE, z)
    for side in (-1, 1):
        inner, outer = x + side * (half - 0.22), x + side * half
        canvas.facing([(inner, 0), (outer, 0), (outer, 0.4), (inner, 0.4)], z, tyre)
    canvas.facing(
        [(x - half, 0.22), (x + half, 0.22), (x + half, belt), (x - half, belt)], z, paint
    )
    cabin = [
        (x - half + 0.02, belt),
        (x + half - 0.02, belt),
        (x + half - inset, tall),
        (x - half + inset, tall),
    ]
    canvas.facing(cabin, z, paint)
    glass = canvas.facing_part(CAR, instance, _GLASS, z, grain=0.15)
    pane = [(x + 0.82 * (a - x), belt + 0.08 + 0.8 * (b - belt)) for a, b in cabin]
    canvas.facing(pane, z, glass)
    _paint_car_lights(canvas, dice, instance, x, z, (half, belt), oncoming=oncoming)


def _paint_car_side(
    canvas: Canvas,
    instance: int,
    colour: Colour,
    x: float,
    z: float,
    measures: tuple[float, float, float, float, float],
) -> None:
    """Paint the flank that the camera sees: the left one of a car on the right, and so on."""
    half, long, tall, belt, inset = measures
    camera = canvas.camera
    edge = x - half if x > 0 else x + half
    roof = edge + (inset if x > 0 else -inset)
    flank = canvas.facing_part(CAR, instance, shade(colour, 0.75), z + long / 2)
    far = z + long
    canvas.polygon(
        [camera.project(edge, y, d) for y, d in ((0.22, z), (belt, z), (belt, far), (0.22, far))],
        flank,
    )
    slope = 0.16 * long
    canvas.polygon(
        [
            camera.project(edge, belt, z),
            camera.project(roof, tall, z),
            camera.project(roof, tall, far - slope),
            camera.project(edge, belt, far),
        ],
        canvas.facing_part(CAR, instance, shade(_GLASS, 0.9), z + long / 2),
    )
    tyre = canvas.facing_part(CAR, instance, _TYRE, z + long / 2)
    for at in (z + 0.2 * long, z + 0.8 * long):
        around = ((0, at - 0.3), (0.5, at - 0.3), (0.5, at + 0.3), (0, at + 0.3))
        canvas.polygon([camera.project(edge, y, d) for y, d in around], tyre)


def _paint_car_lights(
    canvas: Canvas,
    dice: Dice,
    instance: int,
    x: float,
    z: float,
    measures: tuple[float, float],
    *,
    oncoming: bool,
) -> None:
    half, belt = measures
    lit = canvas.night or dice.chance(0.25)
    colour: Colour = (255, 245, 220) if oncoming else (200, 30, 25)
    part = canvas.facing_part(
        CAR, instance, colour if lit else shade(colour, 0.6), z, glow=0.85 if lit else 0.0
    )
    for side in (-1, 1):
        inner, outer = x + side * (half - 0.3), x + side * (half - 0.03)
        canvas.facing(
            [(inner, belt - 0.3), (outer, belt - 0.3), (outer, belt - 0.1), (inner, belt - 0.1)],
            z,
            part,
        )
        if lit and canvas.night:
            at = canvas.camera.project(x + side * (half - 0.15), belt - 0.2, z)
            strength = 1.3 if oncoming else 0.35
            canvas.lights.append((*at, 0.9 * canvas.camera.focal / z, strength))
