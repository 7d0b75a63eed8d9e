"""The sky, the ground and what closes the view at the end of the street."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bsprobe.training.cityscapes.labels import Colour
from bsprobe.training.cityscapes.scene.canvas import Canvas, Light, Point, chance, mix, shade

ROAD, SIDEWALK, PARKING, RAIL_TRACK = 7, 8, 9, 10
BUILDING, VEGETATION, TERRAIN, SKY = 11, 21, 22, 23

FAR_M = 170.0
"""Where the street ends."""
NEAR_M = 0.8
"""Nearer than the lowest line of any image."""
_FINE_DETAIL_M = 50.0
"""Joints and lines farther away than this are thinner than a pixel."""
_BACKDROP_M = 160.0
"""How far the backdrop reaches to both sides."""

_ASPHALT: Colour = (92, 92, 98)
_PAVING: Colour = (168, 158, 152)
_KERB: Colour = (196, 192, 186)
_GRASS: Colour = (112, 142, 62)
_PAINT: Colour = (226, 226, 220)
_STEEL: Colour = (150, 146, 142)


@dataclass(frozen=True, slots=True, kw_only=True)
class Street:
    """The cross section of a street, in metres right of the camera."""

    left_m: float
    """The left edge of the road, negative."""
    right_m: float
    """The right edge of the road."""
    lane_m: float
    """The width of a lane."""
    sidewalk_m: float
    """The width of each sidewalk."""
    verge_m: float
    """The width of the grass between road and sidewalk, 0 for none."""

    @property
    def middle_m(self) -> float:
        """The line between the two directions."""
        return (self.left_m + self.right_m) / 2

    def walk_m(self, side: int) -> float:
        """The middle of the sidewalk; side -1 is left, 1 is right."""
        edge = self.left_m if side < 0 else self.right_m
        return edge + side * (self.verge_m + self.sidewalk_m / 2)

    def front_m(self, side: int) -> float:
        """Where houses, walls and hedges begin."""
        edge = self.left_m if side < 0 else self.right_m
        return edge + side * (self.verge_m + self.sidewalk_m)


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]
) -> NDArray[np.float32]:
    """Soft random hills between 0 and 1: `cells` random values blown up to `shape`."""
    coarse = Image.fromarray(rng.random(cells).astype(np.float32))
    soft = coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(soft, dtype=np.float32).clip(0.0, 1.0)


def paint_sky(canvas: Canvas, rng: np.random.Generator, light: Light) -> None:
    """Fill the canvas with a gradient and soft clouds."""
    shape = (160, 320)
    horizon = max(1, round(shape[0] * canvas.camera.horizon_share))
    depth = np.clip(np.arange(shape[0]) / horizon, 0, 1)[:, None, None] ** 0.8
    top, low = np.asarray(light.sky_top, float), np.asarray(light.sky_low, float)
    gradient = top + (low - top) * depth
    clouds = 0.6 * smooth_noise(rng, shape, (7, 6)) + 0.4 * smooth_noise(rng, shape, (18, 14))
    thickness = np.clip((clouds - 0.75 + 0.5 * light.cloud_cover) * 3.2, 0, 0.85)[..., None]
    sky = gradient + (np.asarray(light.cloud, float) - gradient) * thickness
    canvas.fill(Image.fromarray(sky.astype(np.uint8)), SKY)


def paint_ground(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """Grass to the horizon, the sidewalks with kerbs and joints, and the road."""
    _strip(canvas, (-400, 400), _GRASS, TERRAIN, far_m=900)
    for side in (-1, 1):
        edge = street.left_m if side < 0 else street.right_m
        inner = edge + side * street.verge_m
        _strip(canvas, (inner, street.front_m(side)), _PAVING, SIDEWALK)
        ahead = 2.0
        while ahead < _FINE_DETAIL_M:
            joint = [(inner, 0.0, ahead), (street.front_m(side), 0.0, ahead)]
            canvas.bar(joint[0], joint[1], 0.03, shade(_PAVING, 0.86), SIDEWALK)
            ahead *= 1.12
        _strip(canvas, (inner, inner + side * 0.25), _KERB, SIDEWALK)
    _strip(canvas, (street.left_m, street.right_m), _ASPHALT, ROAD)
    for _ in range(int(rng.integers(1, 5))):  # repaired patches
        left = float(rng.uniform(street.left_m, street.right_m - 1.5))
        ahead = float(rng.uniform(5, 40))
        patch = _rectangle(left, left + float(rng.uniform(0.6, 1.5)), ahead, ahead + 5)
        canvas.face(patch, shade(_ASPHALT, float(rng.uniform(0.84, 1.1))), ROAD)


def paint_markings(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """A dashed middle line, edge lines, and sometimes a zebra crossing."""
    ahead = float(rng.uniform(1.5, 4))
    while ahead < FAR_M * 0.6:
        dash = _rectangle(street.middle_m - 0.07, street.middle_m + 0.07, ahead, ahead + 3)
        canvas.face(dash, _PAINT, ROAD)
        ahead += 6
    for edge in (street.left_m + 0.35, street.right_m - 0.35):
        _strip(canvas, (edge - 0.06, edge + 0.06), _PAINT, ROAD)
    if chance(rng, 0.45):
        paint_crossing(canvas, street, float(rng.uniform(11, 17)))


def paint_crossing(canvas: Canvas, street: Street, ahead_m: float) -> None:
    """A zebra crossing of 3.5 metres."""
    left = street.left_m + 0.4
    while left < street.right_m - 0.6:
        canvas.face(_rectangle(left, left + 0.5, ahead_m, ahead_m + 3.5), _PAINT, ROAD)
        left += 1.0


def paint_rails(canvas: Canvas, left_m: float) -> None:
    """A tram track 1.435 metres wide in a bed of concrete."""
    _strip(canvas, (left_m - 0.5, left_m + 1.95), (136, 128, 120), RAIL_TRACK)
    for rail in (left_m, left_m + 1.435):
        _strip(canvas, (rail - 0.05, rail + 0.05), shade(_STEEL, 0.55), RAIL_TRACK)


def paint_parking(canvas: Canvas, left_m: float, right_m: float) -> None:
    """A strip of parking lots along the kerb."""
    _strip(canvas, (left_m, right_m), (140, 112, 104), PARKING)
    ahead = 3.0
    while ahead < _FINE_DETAIL_M:
        canvas.bar((left_m, 0, ahead), (right_m, 0, ahead), 0.08, _PAINT, PARKING)
        ahead += 5.5


def paint_backdrop(canvas: Canvas, rng: np.random.Generator) -> None:
    """Woods and houses far away, so that the street does not end in nothing."""
    right = -_BACKDROP_M
    while right < _BACKDROP_M:
        width = float(rng.uniform(7, 16))
        if chance(rng, 0.35):
            height = float(rng.uniform(7, 15))
            wall = mix((168, 138, 120), (150, 152, 160), float(rng.random()))
            corners: list[Point] = [
                (right, 0, FAR_M),
                (right, height, FAR_M),
                (right + width / 2, height + 2.5, FAR_M),
                (right + width, height, FAR_M),
                (right + width, 0, FAR_M),
            ]
            canvas.face(corners, wall, BUILDING)
        else:
            green = shade((66, 102, 54), float(rng.uniform(0.8, 1.15)))
            for _ in range(3):
                centre = (right + float(rng.uniform(0, width)), 1.5, FAR_M)
                canvas.disc(centre, float(rng.uniform(4, 8)), green, VEGETATION)
        right += width * 0.8


def _strip(
    canvas: Canvas,
    across_m: tuple[float, float],
    colour: Colour,
    label_id: int,
    far_m: float = FAR_M,
) -> None:
    """A band along the street, in pieces so that the haze grows with the distance."""
    cuts = np.geomspace(NEAR_M, far_m, 14)
    for near, far in reversed(list(pairwise(cuts))):
        band = _rectangle(*across_m, float(near), float(far))
        canvas.face(band, colour, label_id)


def _rectangle(left_m: float, right_m: float, near_m: float, far_m: float) -> list[Point]:
    """A rectangle on the ground."""
    return [(left_m, 0, near_m), (left_m, 0, far_m), (right_m, 0, far_m), (right_m, 0, near_m)]
