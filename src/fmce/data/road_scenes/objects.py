"""The things in a built-in road scene: each function paints one at x metres to the right and z ahead.

Every measure, colour and probability here is not given in the paper, which uses real videos.
"""

import math

from fmce.data.road_scenes import canvas as kinds
from fmce.data.road_scenes.canvas import Canvas, Colour, Palette, Part, Point

_BUILDINGS: Palette = (
    (150, 90, 70),
    (170, 160, 145),
    (120, 120, 125),
    (205, 200, 190),
    (95, 105, 95),
)
_CARS: Palette = ((25, 25, 28), (225, 225, 225), (110, 112, 116), (150, 25, 25), (30, 55, 120))
_CLOTHES: Palette = ((30, 30, 35), (50, 60, 90), (120, 40, 40), (200, 200, 195), (180, 140, 40))
_LEAVES: Palette = ((60, 85, 40), (45, 70, 35), (85, 100, 45), (110, 95, 45))
_SIGNS: Palette = ((180, 30, 30), (40, 70, 160), (215, 180, 40), (220, 220, 220), (130, 130, 130))
_SKIN: Palette = ((170, 125, 100), (95, 65, 50))
_GLASS, _DARK, _STEEL = (45, 52, 60), (20, 20, 22), (105, 108, 110)


def _shade(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def _trapezoid(x: float, lower: float, upper: float, y: tuple[float, float]) -> list[Point]:
    """Return corners around x: half the widths at y[0] and y[1] are `lower` and `upper`."""
    return [(x - lower, y[0]), (x + lower, y[0]), (x + upper, y[1]), (x - upper, y[1])]


def paint_building(canvas: Canvas, x: float, z: tuple[float, float], outward: float) -> None:
    """Paint a building: its front along the street from z[0] to z[1], and the end that faces the camera.

    `outward` is 1 on the right of the street, −1 on the left.
    """
    rng, (near, far) = canvas.rng, z
    colour = canvas.choose(_BUILDINGS, 25)
    top = rng.uniform(4, 9) if canvas.chance(0.4) else rng.uniform(9, 26)
    corners = ((near, 0), (near, top), (far, top), (far, 0))
    front = [canvas.camera.project(x, y, depth) for depth, y in corners]
    canvas.polygon(front, Part(kinds.BUILDING, colour, grain=0.12))
    half = rng.uniform(4, 8)
    end = _trapezoid(x + outward * half, half, half, (0, top))
    canvas.upright(end, near, Part(kinds.BUILDING, _shade(colour, 0.8), grain=0.12))


def paint_tree(canvas: Canvas, x: float, z: float) -> None:
    """Paint a tree; trunk and leaves are vegetation."""
    rng, leaves = canvas.rng, canvas.choose(_LEAVES, 12)
    crown, middle, half = rng.uniform(0.6, 3.0), rng.uniform(1.5, 5.5), rng.uniform(0.1, 0.22)
    wood = Part(kinds.VEGETATION, canvas.vary((75, 60, 48), 15))
    canvas.upright(_trapezoid(x, half, half, (0, middle)), z, wood)
    for light in (0.75, 1.0, 1.2):
        at = x + crown * rng.uniform(-0.6, 0.6), middle + crown * rng.uniform(-0.5, 0.6)
        radii = crown * rng.uniform(0.5, 0.9), crown * rng.uniform(0.4, 0.8)
        canvas.disc(at, z, radii, Part(kinds.VEGETATION, _shade(leaves, light), grain=0.22))


def paint_lamp(canvas: Canvas, x: float, z: float) -> None:
    """Paint a street lamp: a pole with an arm over the road."""
    top, reach = canvas.rng.uniform(5.5, 9.0), canvas.rng.uniform(0.8, 2.5)
    tip = (x - math.copysign(reach, x), top + 0.3)
    canvas.bar([(x, 0), (x, top), tip], z, 0.15, Part(kinds.POLE, canvas.vary(_STEEL, 40)))


def paint_sign(canvas: Canvas, x: float, z: float) -> None:
    """Paint a traffic sign on a pole: a triangle, square, octagon or disc with a rim is the object."""
    rng, corners = canvas.rng, int(canvas.rng.choice([3, 4, 8, 12]))
    size, middle = rng.uniform(0.35, 0.75), rng.uniform(1.9, 3.2)
    canvas.bar(
        [(x, 0), (x, middle)], z, rng.uniform(0.1, 0.24), Part(kinds.POLE, canvas.vary(_STEEL, 40))
    )
    rim = Part(kinds.SIGN, canvas.choose(_SIGNS, 20), canvas.new_object(kinds.SIGN))
    inner = (215, 215, 215) if canvas.chance(0.6) else rim.colour
    face = rim._replace(colour=canvas.vary(inner, 25))
    angles = [math.tau * (i + 0.5) / corners + math.pi / 2 for i in range(corners)]
    for radius, part in ((size, rim), (0.6 * size, face)):
        outline = [(x + radius * math.cos(a), middle + radius * math.sin(a)) for a in angles]
        canvas.upright(outline, z, part)


def paint_pedestrian(canvas: Canvas, x: float, z: float) -> None:
    """Paint a standing or walking person: legs, body, head."""
    rng, person = canvas.rng, canvas.new_object(kinds.PEDESTRIAN)
    tall = rng.uniform(1.0, 1.4) if canvas.chance(0.15) else rng.uniform(1.55, 1.95)
    legs = Part(kinds.PEDESTRIAN, _shade(canvas.choose(_CLOTHES), 0.8), person)
    stride, hip, w = tall * rng.uniform(0.02, 0.2), 0.5 * tall, 0.06 * tall
    for foot in (x - stride, x + stride):
        canvas.upright([(foot - w, 0), (foot + w, 0), (x + w, hip), (x - w, hip)], z, legs)
    body = _trapezoid(x, 0.1 * tall, 0.13 * tall, (0.45 * tall, 0.83 * tall))
    canvas.upright(body, z, legs._replace(colour=canvas.choose(_CLOTHES)))
    head = legs._replace(colour=canvas.choose(_SKIN, 20))
    canvas.disc((x, 0.92 * tall), z, (0.065 * tall, 0.075 * tall), head)


def paint_car(canvas: Canvas, x: float, z: float, oncoming: bool) -> None:
    """Paint a car or, one time in six, a van, along the street, with its shadow on the road."""
    rng, project = canvas.rng, canvas.camera.project
    half, long, tall = rng.uniform(0.82, 0.95), rng.uniform(3.7, 4.9), rng.uniform(1.38, 1.7)
    belt, inset, far = 0.56 * tall, 0.16, z + long
    if canvas.chance(1 / 6):
        half, tall, belt, inset = 1.2 * half, 1.8 * tall, 0.8 * tall, 0.04
    canvas.ground(_trapezoid(x, half + 0.1, half + 0.1, (z, far)), Part(kinds.ROAD, _DARK))
    car = Part(kinds.CAR, canvas.choose(_CARS, 15), canvas.new_object(kinds.CAR))
    # The flank that the camera sees: the left one of a car on the right, and so on.
    inward = -math.copysign(1, x)
    edge, roof = x + inward * half, x + inward * (half - inset)
    flank = ((edge, 0, z), (edge, belt, z), (edge, belt, far), (edge, 0, far))
    panes = ((edge, belt, z), (roof, tall, z), (roof, tall, far - 0.6), (edge, belt, far))
    for corners, colour in ((flank, _shade(car.colour, 0.75)), (panes, _GLASS)):
        canvas.polygon([project(*corner) for corner in corners], car._replace(colour=colour))
    # The end that faces the camera: tyres below, body, cabin, and its pane.
    for outline, colour in (
        (_trapezoid(x, half, half, (0, 0.4)), _DARK),
        (_trapezoid(x, half, half, (0.22, belt)), car.colour),
        (_trapezoid(x, half, half - inset, (belt, tall)), car.colour),
        (_trapezoid(x, 0.8 * half, 0.8 * half - inset, (belt + 0.08, tall - 0.1)), _GLASS),
    ):
        canvas.upright(outline, z, car._replace(colour=colour))
    lamp = car._replace(colour=(205, 195, 175) if oncoming else (160, 25, 20))
    for light in (x - half + 0.16, x + half - 0.16):
        canvas.upright(_trapezoid(light, 0.14, 0.14, (belt - 0.3, belt - 0.1)), z, lamp)
