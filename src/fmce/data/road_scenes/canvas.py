"""The canvas of built-in road scenes: a camera, and parts painted far to near into one map.

Every part has a class, an object number, a colour and the plane it lies in, so masks, boxes and
depths are exact by construction.
"""

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
Point = tuple[float, float]


class Dice:
    """Random numbers drawn in bulk and handed out singly, faster than one call each."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._pool: list[float] = []

    def unit(self) -> float:
        """Return a number in [0, 1)."""
        if not self._pool:
            self._pool = self._rng.random(1024).tolist()
        return self._pool.pop()

    def between(self, low: float, high: float) -> float:
        """Return a number in [low, high)."""
        if not self._pool:  # not through unit(): a scene draws a thousand of these
            self._pool = self._rng.random(1024).tolist()
        return low + (high - low) * self._pool.pop()

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.unit() < probability

    def below(self, n: int) -> int:
        """Return an integer 0 … n − 1."""
        return int(self.unit() * n)

    def vary(self, colour: Colour, spread: float) -> Colour:
        """Return the colour with each channel and the whole shifted by up to `spread`."""
        shift = self.between(-spread, spread)
        r, g, b = (c + shift + self.between(-spread, spread) / 2 for c in colour)
        return (r, g, b)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera over a flat, possibly bending street; lengths in metres, u and v in pixels.

    Attributes:
        width: Pixels across.
        height: Pixels down.
        focal: Focal length in pixels.
        centre: u of the vanishing point.
        horizon: v of the horizon.
        above_ground: Height of the camera.
        bend: Sideways shift of the street per squared metre ahead.
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

    def sees(self, x: float, z: float, *, margin: float) -> bool:
        """Tell whether anything within `margin` metres beside x, z ahead, is in the picture."""
        (left, _), (right, _) = self.project(x - margin, 0, z), self.project(x + margin, 0, z)
        return right > 0 and left < self.width


class Part(NamedTuple):
    """One row of the table of parts.

    `inverse_depth` holds a, b, c of 1/z = a + b·u + c·(v − horizon), exact on a plane. `panes`
    holds the width and height of a window's cell in metres, 0 for none, and which share of windows
    is lit.
    """

    class_id: int
    instance: int
    colour: Colour
    inverse_depth: tuple[float, float, float]
    grain: float = 0.04
    glow: float = 0.0
    panes: tuple[float, float, float] = (0.0, 0.0, 0.0)
    along_street: bool = False


@dataclass
class Canvas:
    """A street being painted.

    Attributes:
        camera: Through which it is seen.
        parts: Table of parts, by part number; number 0 is the sky, where nothing is painted.
        image: Part numbers (H, W), filled by painting far to near.
        object_classes: Class of each object by object number − 1.
        lights: Lamps and headlights as (u, v, radius, strength), radius in pixels.
        night: Whether lamps are on.
    """

    camera: Camera
    night: bool
    parts: list[Part] = field(default_factory=list)
    object_classes: list[int] = field(default_factory=list)
    lights: list[tuple[float, float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.image = Image.new("I", (self.camera.width, self.camera.height))
        self._draw = ImageDraw.Draw(self.image)
        self.add(Part(SKY, 0, (0, 0, 0), (1e-3, 0.0, 0.0), grain=0.0))  # number 0: nothing painted

    def part_map(self) -> NDArray[np.int32]:
        """Return the part number of each pixel, int32 (H, W)."""
        return np.asarray(self.image)

    def new_object(self, class_id: int) -> int:
        """Return the number, from 1, of a new object."""
        self.object_classes.append(class_id)
        return len(self.object_classes)

    def add(self, part: Part) -> int:
        """Put a part into the table and return its number."""
        self.parts.append(part)
        return len(self.parts) - 1

    def polygon(self, points: Sequence[Point], number: int) -> None:
        """Paint a polygon with a part."""
        self._draw.polygon(points, fill=number)

    def ellipse(self, centre: Point, radius_u: float, radius_v: float, number: int) -> None:
        """Paint an ellipse with a part."""
        u, v = centre
        self._draw.ellipse((u - radius_u, v - radius_v, u + radius_u, v + radius_v), fill=number)

    def line(self, points: Sequence[Point], pixels: float, number: int) -> None:
        """Paint a line with a part, at least one pixel wide."""
        self._draw.line(points, fill=number, width=max(1, round(pixels)))

    # The three planes things lie in.

    def ground_part(self, class_id: int, colour: Colour, grain: float = 0.05) -> int:
        """Add a part that lies on the ground."""
        slope = 1.0 / (self.camera.focal * self.camera.above_ground)
        return self.add(Part(class_id, 0, colour, (0.0, 0.0, slope), grain))

    def facing_part(
        self,
        class_id: int,
        instance: int,
        colour: Colour,
        z: float,
        *,
        grain: float = 0.04,
        glow: float = 0.0,
        panes: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> int:
        """Add a part that faces the camera at depth z."""
        return self.add(Part(class_id, instance, colour, (1.0 / z, 0.0, 0.0), grain, glow, panes))

    def plane_part(
        self,
        class_id: int,
        colour: Colour,
        inverse_depth: tuple[float, float, float],
        *,
        panes: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> int:
        """Add a part on an upright plane along the street, its depth as in `Part`."""
        return self.add(Part(class_id, 0, colour, inverse_depth, panes=panes, along_street=True))

    def ground(self, outline: Sequence[tuple[float, float]], number: int) -> None:
        """Paint a shape on the ground, corners (x, z) in metres."""
        self.polygon([self.camera.project(x, 0.0, z) for x, z in outline], number)

    def facing(self, outline: Sequence[tuple[float, float]], z: float, number: int) -> None:
        """Paint an upright shape at depth z, corners (x, y) in metres."""
        self.polygon([self.camera.project(x, y, z) for x, y in outline], number)
