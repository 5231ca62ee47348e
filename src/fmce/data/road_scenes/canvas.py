"""A camera, and a canvas where parts are painted far to near, so that masks and boxes are exact by construction."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SCENE_CLASSES = (
    *("road", "lane marking", "sidewalk", "building", "vegetation", "sky", "pole", "sign"),
    *("pedestrian", "car"),
)
SCENE_BOX_CLASSES = ("pedestrian", "car", "sign")
ROAD, MARKING, SIDEWALK, BUILDING, VEGETATION, SKY, POLE, SIGN, PEDESTRIAN, CAR = range(10)
IGNORED = 255  # the bonnet of the camera's own car

Colour = tuple[float, float, float]
Palette = tuple[Colour, ...]
Point = tuple[float, float]


class Part(NamedTuple):
    """What is painted at once: class, colour 0 … 255, object number (0: none), strength of its texture."""

    class_id: int
    colour: Colour
    instance: int = 0
    grain: float = 0.06


class Camera(NamedTuple):
    """A pinhole camera over a flat, possibly bending street; u and v in pixels, lengths in metres.

    The vanishing point has u = centre and v = horizon; `bend` is the sideways shift of the street per
    squared metre ahead.
    """

    width: int
    height: int
    focal: float
    centre: float
    horizon: float
    above_ground: float
    bend: float

    def project(self, x: float, y: float, z: float) -> Point:
        """Return the pixel of a point x to the right, y above the ground, z ahead (z > 0)."""
        return (
            self.centre + self.focal * (x + self.bend * z * z) / z,
            self.horizon + self.focal * (self.above_ground - y) / z,
        )


@dataclass
class Canvas:
    """A street that is being painted; part 0 is the sky, where nothing else is.

    Attributes:
        rng: Draws the scene; what stands where depends on nothing else.
        parts: Table of parts, by part number.
        object_classes: Class of each object, by object number − 1.
        image: Part numbers (H,W), in Pillow's 32-bit mode.
    """

    camera: Camera
    rng: np.random.Generator
    parts: list[Part] = field(default_factory=lambda: [Part(SKY, (0, 0, 0), grain=0.0)])
    object_classes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.image = Image.new("I", (self.camera.width, self.camera.height))
        self._draw = ImageDraw.Draw(self.image)

    def part_map(self) -> NDArray[np.int32]:
        """Return the part number of each pixel, int32 (H,W)."""
        return np.asarray(self.image)

    def new_object(self, class_id: int) -> int:
        """Return the number, from 1, of a new object."""
        self.object_classes.append(class_id)
        return len(self.object_classes)

    def vary(self, colour: Colour, spread: float) -> Colour:
        """Return the colour with each channel, and all together, shifted by up to `spread`."""
        shift = self.rng.uniform(-spread, spread)
        r, g, b = (c + shift + spread * (self.rng.random() - 0.5) for c in colour)
        return (r, g, b)

    def choose(self, colours: Palette, spread: float = 18.0) -> Colour:
        """Return one of the colours, varied."""
        return self.vary(colours[self.rng.integers(len(colours))], spread)

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.rng.random() < probability

    def polygon(self, points: Sequence[Point], part: Part) -> None:
        """Paint a polygon with corners (u, v) in pixels."""
        self._draw.polygon(points, fill=self._number(part))

    def ground(self, outline: Sequence[Point], part: Part) -> None:
        """Paint a shape on the ground with corners (x, z) in metres."""
        self.polygon([self.camera.project(x, 0.0, z) for x, z in outline], part)

    def upright(self, outline: Sequence[Point], z: float, part: Part) -> None:
        """Paint a shape that faces the camera at depth z, with corners (x, y) in metres."""
        self.polygon([self.camera.project(x, y, z) for x, y in outline], part)

    def disc(self, centre: Point, z: float, radii: Point, part: Part) -> None:
        """Paint an ellipse at depth z around (x, y); all in metres."""
        u, v = self.camera.project(*centre, z)
        a, b = (radius * self.camera.focal / z for radius in radii)
        self._draw.ellipse((u - a, v - b, u + a, v + b), fill=self._number(part))

    def bar(self, corners: Sequence[Point], z: float, thickness: float, part: Part) -> None:
        """Paint a line at depth z through (x, y) in metres, at least one pixel wide."""
        points = [self.camera.project(x, y, z) for x, y in corners]
        pixels = max(1, round(thickness * self.camera.focal / z))
        self._draw.line(points, fill=self._number(part), width=pixels)

    def _number(self, part: Part) -> int:
        self.parts.append(part)
        return len(self.parts) - 1
