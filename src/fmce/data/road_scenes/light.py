"""Light, weather, lens and sensor of built-in road scenes: from a painted canvas to a picture.

Textures stick to the surfaces they are on, since every pixel's depth is known from its part's
plane.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from fmce.data.road_scenes.canvas import Canvas, Dice

FloatArray = NDArray[np.float32]
_TILE = 64  # cells of the repeated texture, a power of two


@dataclass(frozen=True)
class Conditions:
    """Light and weather of a scene; colours as factors or 0 … 255."""

    night: bool
    ambient: FloatArray
    zenith: FloatArray
    haze: FloatArray
    visibility_m: float
    rain: float
    sun: float


# Not given in the paper, which uses real videos: every number of light, weather and camera below.


def draw_conditions(dice: Dice) -> Conditions:
    """Draw time of day and weather: a fifth night, a fifth dusk, with fog, rain, cloud or sun."""
    time, weather = dice.unit(), dice.unit()
    night, dusk = time < 0.2, 0.2 <= time < 0.4
    foggy, rainy, overcast = weather < 0.15, 0.15 <= weather < 0.35, 0.35 <= weather < 0.6
    if night:
        ambient, zenith, haze = (0.2, 0.22, 0.3), (10.0, 12.0, 26.0), (42.0, 40.0, 46.0)
    elif dusk:
        ambient, zenith, haze = (0.68, 0.55, 0.55), (75.0, 85.0, 125.0), (225.0, 160.0, 115.0)
    elif foggy or rainy or overcast:
        ambient, zenith, haze = (0.75, 0.77, 0.8), (165.0, 170.0, 178.0), (195.0, 198.0, 200.0)
    else:
        ambient, zenith, haze = (1.05, 1.02, 0.97), (90.0, 135.0, 200.0), (200.0, 215.0, 230.0)
    bright = dice.between(0.75, 1.2)
    visibility = dice.between(14, 60) if foggy else dice.between(60, 150) if rainy else 600.0
    return Conditions(
        night=night,
        ambient=np.array(ambient, dtype=np.float32) * bright,
        zenith=np.array(zenith, dtype=np.float32) * dice.between(0.85, 1.1),
        haze=np.array(haze, dtype=np.float32) * dice.between(0.85, 1.05),
        visibility_m=visibility,
        rain=dice.between(0.3, 1.0) if rainy else 0.0,
        sun=0.0 if night or foggy or rainy or overcast else dice.between(0.3, 1.0),
    )


class _View(NamedTuple):
    """What each pixel shows, float32 (H, W) unless said otherwise.

    Attributes:
        parts: Part numbers, int32.
        table: The parts' columns, float32 (12, parts).
        depth: Metres ahead.
        along: Metres along the surface: along the street on fronts, sideways elsewhere.
        up: Metres up an upright surface, metres ahead on the ground.
        ground: Whether it is the ground, bool.
        glow: Share of its colour that needs no light, changed by lit windows.
    """

    parts: NDArray[np.int32]
    table: FloatArray
    depth: FloatArray
    along: FloatArray
    up: FloatArray
    ground: NDArray[np.bool_]
    glow: FloatArray


def _view(canvas: Canvas, parts: NDArray[np.int32]) -> _View:
    table = np.array(
        [
            (*p.colour, *p.inverse_depth, p.grain, p.glow, *p.panes, p.along_street)
            for p in canvas.parts
        ],
        dtype=np.float32,
    ).T.copy()
    u = np.arange(canvas.camera.width, dtype=np.float32)
    v = np.arange(canvas.camera.height, dtype=np.float32)[:, None] - canvas.camera.horizon
    down = table[5][parts]
    inverse = table[3][parts] + table[4][parts] * u + down * v
    depth = 1 / np.maximum(inverse, 1 / 400)
    scale = depth / canvas.camera.focal
    ground = down > 0
    along = np.where(table[11][parts] > 0, depth, (u - canvas.camera.centre) * scale)
    up = np.where(ground, depth, canvas.camera.above_ground - v * scale)
    return _View(parts, table, depth, along, up, ground, table[7][parts])


def photograph(
    canvas: Canvas,
    parts: NDArray[np.int32],
    conditions: Conditions,
    dice: Dice,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Turn part numbers into a picture: surfaces, light, weather, lens and sensor."""
    view = _view(canvas, parts)
    picture = _surfaces(view, conditions, rng)
    _light(picture, view, canvas, conditions)
    _sky(picture, parts == 0, canvas, conditions, rng)  # part 0 is the empty canvas
    _weather(picture, view, canvas, conditions)
    return _camera(picture, conditions, dice, rng)


def _tile(rng: np.random.Generator, cells: int) -> FloatArray:
    return rng.standard_normal((cells, cells), dtype=np.float32)


def _texture(tile: FloatArray, view: _View, along: float, up: float) -> FloatArray:
    """Look the tile up at so many cells a metre: a texture that sticks to its surface."""
    last = len(tile) - 1
    rows = (view.along * along).astype(np.int32) & last
    rows *= len(tile)
    rows += (view.up * up).astype(np.int32) & last
    texture: FloatArray = tile.ravel()[rows]
    return texture


def _surfaces(view: _View, conditions: Conditions, rng: np.random.Generator) -> FloatArray:
    """Return colours 0 … 255 with textures, shadows on the ground, and windows."""
    tile = _tile(rng, _TILE)
    bright = _texture(tile, view, 9.0, 9.0) + 0.7 * _texture(tile, view, 0.6, 0.6)
    bright *= view.table[6][view.parts]
    bright += 1
    if conditions.sun:
        shadow = view.ground & (_texture(tile, view, 0.22, 0.12) > 0.45)
        bright[shadow] *= 1 - 0.5 * conditions.sun
    picture: FloatArray = view.table[:3].T.copy()[view.parts]
    picture *= bright[..., None]
    walls = np.nonzero(view.table[8][view.parts])
    if len(walls[0]):
        _windows(picture, view, walls)
    return picture


def _windows(picture: FloatArray, view: _View, walls: tuple[NDArray[np.int64], ...]) -> None:
    """Paint windows into walls: dark glass, or lit ones that glow."""
    parts = view.parts[walls]
    across, floors = view.along[walls] / view.table[8][parts], view.up[walls] / view.table[9][parts]
    column, floor = np.floor(across), np.floor(floors)
    window = (abs(across - column - 0.5) < 0.28) & (abs(floors - floor - 0.55) < 0.27)
    # A hash of the cell decides which windows are lit: fixed to the wall, and no draw per window.
    mixed = column.astype(np.int64) * 73856093 ^ floor.astype(np.int64) * 19349663
    lot = ((mixed ^ parts * np.int64(83492791)) % 1021) / 1021
    lit = window & (lot < view.table[10][parts])
    colours = picture[walls]
    colours[window] = colours[window] * 0.45 + 8
    colours[lit] = (250, 205, 130)
    picture[walls] = colours
    view.glow[walls] = np.where(lit, 0.75, view.glow[walls])


def _light(picture: FloatArray, view: _View, canvas: Canvas, conditions: Conditions) -> None:
    """Apply daylight, the own headlights at night, and what shines by itself."""
    if not conditions.night:
        picture *= np.maximum(conditions.ambient, view.glow[..., None])
        return
    u = np.arange(canvas.camera.width, dtype=np.float32) - canvas.camera.centre
    beam = np.exp(-((u / (0.3 * canvas.camera.width)) ** 2)) * 1.1 / (1 + (view.depth / 16) ** 2)
    headlights = beam[..., None] * np.array((1.0, 0.95, 0.85), dtype=np.float32)
    picture *= np.maximum(conditions.ambient + headlights, view.glow[..., None])


def _sky(
    picture: FloatArray,
    sky: NDArray[np.bool_],
    canvas: Canvas,
    conditions: Conditions,
    rng: np.random.Generator,
) -> None:
    """Fill the sky with a gradient and clouds."""
    height, width = sky.shape
    up = np.clip(1 - np.arange(height, dtype=np.float32) / max(canvas.camera.horizon, 1), 0, 1)
    gradient = conditions.haze + (conditions.zenith - conditions.haze) * up[:, None] ** 0.7
    cloud = Image.fromarray(_tile(rng, 7)).resize((width, height), Image.Resampling.BICUBIC)
    cover = np.clip(np.asarray(cloud), 0, 1)[..., None] * (0.06 if conditions.night else 0.55)
    whole = gradient[:, None, :] * (1 - cover) + cover * (conditions.haze + 20)
    np.copyto(picture, whole, where=sky[..., None])


def _weather(picture: FloatArray, view: _View, canvas: Canvas, conditions: Conditions) -> None:
    """Mirror the scene in a wet road, let lamps glow, and veil the distance."""
    height, width = view.depth.shape
    if conditions.rain:
        mirror = np.clip(2 * int(canvas.camera.horizon) - np.arange(height), 0, height - 1)
        wet = (0.45 * conditions.rain * view.ground)[..., None]
        picture += wet * (picture[mirror] - picture)
    if canvas.lights:
        u, v, radius, strength = np.array(canvas.lights, dtype=np.float32).T[:, :, None]
        radius = np.maximum(radius, 0.7)
        down = strength * np.exp(-(((np.arange(height, dtype=np.float32) - v) / radius) ** 2))
        across = np.exp(-(((np.arange(width, dtype=np.float32) - u) / radius) ** 2))
        glow = np.minimum(down.T @ across, 1.2)
        picture += glow[..., None] * np.array((200, 180, 130), dtype=np.float32)
    clear = np.exp(-view.depth / conditions.visibility_m)[..., None]
    picture *= clear
    picture += conditions.haze * (1 - clear)


def _camera(
    picture: FloatArray, conditions: Conditions, dice: Dice, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Add rain streaks, exposure, white balance, vignetting, blur and noise."""
    height, width = picture.shape[:2]
    if conditions.rain:
        picture += _streaks(dice, height, width, conditions.rain)[..., None]
    balance = [dice.between(0.88, 1.12) for _ in range(3)]
    picture *= np.array(balance, dtype=np.float32) * dice.between(0.8, 1.2)
    across = np.linspace(-1, 1, width, dtype=np.float32) ** 2
    down = np.linspace(-1, 1, height, dtype=np.float32) ** 2
    picture *= (1 - dice.between(0, 0.25) * (across[None, :] + down[:, None]) / 2)[..., None]
    # Blur grows with the picture: a lens blurs an angle, not a number of pixels.
    radius = dice.between(0.2, 0.65) * max(1.0, height / 128)
    soft = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(radius)
    )
    noise = rng.standard_normal(picture.shape, dtype=np.float32)
    noise *= dice.between(2, 7) * (1.8 if conditions.night else 1.0)
    noise += np.asarray(soft)
    return np.clip(noise, 0, 255).astype(np.uint8)


def _streaks(dice: Dice, height: int, width: int, rain: float) -> FloatArray:
    layer = Image.new("L", (width, height))
    draw = ImageDraw.Draw(layer)
    lean = dice.between(-0.3, 0.3)
    for _ in range(int(60 * rain)):
        u, v = dice.unit() * width, dice.between(-0.1, 1) * height
        fall = dice.between(0.06, 0.2) * height
        draw.line((u, v, u + lean * fall, v + fall), fill=int(dice.between(15, 70)))
    return np.asarray(layer, dtype=np.float32)
