"""What stands beside the road: houses, walls, fences, plants, poles, signs and lights."""

from dataclasses import dataclass

import numpy as np

from bsprobe.training.cityscapes.labels import Colour
from bsprobe.training.cityscapes.scene.canvas import Canvas, Point, chance, mix, shade
from bsprobe.training.cityscapes.scene.surroundings import BUILDING, VEGETATION

STATIC, WALL, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN = 4, 12, 13, 17, 19, 20

_FACADES: tuple[Colour, ...] = (
    (186, 148, 122),
    (204, 184, 150),
    (168, 112, 96),
    (190, 172, 160),
    (158, 130, 118),
    (212, 198, 176),
)
_ROOFS: tuple[Colour, ...] = ((128, 70, 56), (104, 74, 68), (92, 84, 88))
_AWNINGS: tuple[Colour, ...] = ((150, 62, 58), (66, 92, 84), (196, 170, 110))
_GLASS: Colour = (92, 108, 124)
_FRAME: Colour = (226, 222, 214)
_LEAVES: tuple[Colour, ...] = ((70, 116, 46), (86, 128, 50), (58, 100, 48))
_TRUNK: Colour = (84, 74, 52)
_METAL: Colour = (112, 116, 122)
_RED: Colour = (206, 34, 40)
_WHITE: Colour = (238, 238, 234)
_BLUE: Colour = (34, 92, 178)
_YELLOW: Colour = (246, 204, 46)
_BLACK: Colour = (40, 40, 40)
_SIGN_M = 2.65
"""The height of the middle of a sign."""

_Place = tuple[float, float]
"""Right of the camera and ahead of it, in metres."""

LAMPS = ("red", "amber", "green")
_STOREY_M = 3.2
_CLOSE_M = 28.0
"""Things nearer than this get finer parts."""
_DETAIL_REACH_M = 75.0
"""Windows farther away than this are smaller than a pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A stretch along one side of the street."""

    side: int
    """-1 for the left, 1 for the right."""
    front_m: float
    """How far right of the camera it begins."""
    near_m: float
    far_m: float

    def upright(self, low_m: float, high_m: float) -> list[Point]:
        """The rectangle over the whole stretch, standing on its edge."""
        return _upright(self.front_m, self.near_m, self.far_m, low_m, high_m)


def house(canvas: Canvas, rng: np.random.Generator, stretch: Stretch) -> None:
    """A house whose front faces the street."""
    front_m, near_m, far_m = stretch.front_m, stretch.near_m, stretch.far_m
    colour = shade(_FACADES[rng.integers(len(_FACADES))], float(rng.uniform(0.88, 1.08)))
    storeys = int(rng.integers(2, 6))
    height = storeys * _STOREY_M + 0.8
    back = front_m + stretch.side * 11
    ridge: Point = (front_m + stretch.side * 5.5, height + 3.2, near_m)
    roof = _ROOFS[rng.integers(len(_ROOFS))]
    far_ridge: Point = (ridge[0], ridge[1], far_m)
    eaves: list[Point] = [(front_m, height, near_m), (front_m, height, far_m)]
    canvas.face([*eaves, far_ridge, ridge], roof, BUILDING)
    gable: list[Point] = [(front_m, 0, near_m), eaves[0], ridge]
    gable += [(back, height, near_m), (back, 0, near_m)]
    canvas.face(gable, shade(colour, 0.74), BUILDING)
    # The two sides of the street get different light, as they do under any sun.
    lit = shade(colour, 1.04 if stretch.side > 0 else 0.9)
    canvas.face(stretch.upright(0, height), lit, BUILDING)
    canvas.face(stretch.upright(0, 0.6), shade(lit, 0.78), BUILDING)
    canvas.face(stretch.upright(height - 0.3, height), shade(lit, 0.84), BUILDING)
    if near_m < _DETAIL_REACH_M:
        _windows(canvas, rng, stretch, storeys, lit)


def _windows(
    canvas: Canvas, rng: np.random.Generator, stretch: Stretch, storeys: int, wall: Colour
) -> None:
    """Windows in rows, a door, and perhaps a shop with an awning."""
    front_m, near_m, far_m = stretch.front_m, stretch.near_m, stretch.far_m
    columns = max(2, round((far_m - near_m) / 2.7))
    pitch = (far_m - near_m) / columns
    is_shop = chance(rng, 0.5)
    awning = _AWNINGS[rng.integers(len(_AWNINGS))]
    door = int(rng.integers(columns))
    for column in reversed(range(columns)):
        near = near_m + column * pitch
        for storey in range(storeys):
            foot = storey * _STOREY_M + 1.1
            start, end, top = near + 0.27 * pitch, near + 0.73 * pitch, foot + 1.6
            if storey == 0 and column == door:
                canvas.face(_upright(front_m, start, end, 0.1, 2.3), (92, 66, 50), BUILDING)
                continue
            if storey == 0 and is_shop:
                foot, start, end, top = 0.7, near + 0.1 * pitch, near + 0.9 * pitch, 2.5
            pane = mix(_GLASS, (222, 204, 150), float(rng.choice((0.0, 0.08, 0.16, 0.5))))
            canvas.face(_upright(front_m, start, end, foot, top), _FRAME, BUILDING)
            inset = 0.06 * pitch
            pane_face = _upright(front_m, start + inset, end - inset, foot + 0.1, top - 0.1)
            canvas.face(pane_face, pane, BUILDING)
            canvas.face(
                _upright(front_m, start, end, foot - 0.12, foot), shade(wall, 0.7), BUILDING
            )
    if is_shop:
        canvas.face(_upright(front_m, near_m + 0.3, far_m - 0.3, 2.6, 3.2), awning, BUILDING)


def wall(canvas: Canvas, stretch: Stretch) -> None:
    """A garden wall of blocks with a cap, 2.1 metres high."""
    front_m, near_m, far_m = stretch.front_m, stretch.near_m, stretch.far_m
    stone: Colour = (146, 134, 150)
    canvas.face(stretch.upright(0, 2.1), stone, WALL)
    for course in range(1, 5):
        up = course * 0.42
        canvas.bar((front_m, up, near_m), (front_m, up, far_m), 0.03, shade(stone, 0.82), WALL)
    ahead = near_m
    while ahead < min(far_m, 50):
        canvas.bar((front_m, 0, ahead), (front_m, 2.0, ahead), 0.03, shade(stone, 0.84), WALL)
        ahead += 1.3
    canvas.face(stretch.upright(2.0, 2.2), shade(stone, 1.18), WALL)


def fence(canvas: Canvas, stretch: Stretch) -> None:
    """A picket fence, 1.4 metres high, labelled as one face as the official annotations are."""
    front_m, near_m, far_m = stretch.front_m, stretch.near_m, stretch.far_m
    wood: Colour = (170, 134, 116)
    canvas.face(stretch.upright(0, 1.35), shade(wood, 0.62), FENCE)
    ahead = far_m
    while ahead > near_m:
        canvas.face(_upright(front_m, ahead - 0.16, ahead, 0, 1.45), wood, FENCE)
        ahead -= 0.28 if ahead < _CLOSE_M else 0.9
    for up in (0.35, 1.1):
        canvas.bar((front_m, up, near_m), (front_m, up, far_m), 0.08, shade(wood, 0.86), FENCE)


def hedge(canvas: Canvas, rng: np.random.Generator, stretch: Stretch) -> None:
    """A clipped hedge, 1.7 metres high."""
    front_m, near_m, far_m = stretch.front_m, stretch.near_m, stretch.far_m
    green = shade(_LEAVES[2], 0.9)
    canvas.face(stretch.upright(0, 1.6), green, VEGETATION)
    ahead = far_m
    while ahead > max(near_m, 3.0):
        up = float(rng.uniform(0.3, 1.6))
        leaf = shade(_LEAVES[rng.integers(len(_LEAVES))], 0.72 + 0.25 * up)
        canvas.disc((front_m, up, ahead), float(rng.uniform(0.2, 0.38)), leaf, VEGETATION)
        ahead -= ahead * 0.012


def tree(
    canvas: Canvas, rng: np.random.Generator, right_m: float, ahead_m: float, height_m: float
) -> None:
    """A broad-leaved tree: a trunk and a crown of leafy blobs, lit from above."""
    crown_m = height_m * 0.3
    shadow = [
        (right_m + crown_m * float(np.cos(turn)), 0.0, ahead_m + 0.8 * float(np.sin(turn)))
        for turn in np.linspace(0, 2 * np.pi, 14)
    ]
    canvas.shadow(shadow, 0.28)
    trunk = height_m * 0.045
    canvas.bar((right_m, 0, ahead_m), (right_m, height_m * 0.6, ahead_m), trunk, _TRUNK, VEGETATION)
    leaf = _LEAVES[rng.integers(len(_LEAVES))]
    blobs = 80 if ahead_m < _CLOSE_M else 36
    # Drawn from the dark inside to the bright top, as the light falls.
    places = sorted((_in_disc(rng) for _ in range(blobs)), key=lambda place: place[1])
    for across, up in places:
        centre = (right_m + across * crown_m, height_m * 0.68 + up * crown_m * 1.05, ahead_m)
        bright = 0.72 + 0.2 * (up + 1) + float(rng.uniform(-0.1, 0.1))
        radius = crown_m * float(rng.uniform(0.16, 0.34))
        canvas.disc(centre, radius, shade(leaf, bright), VEGETATION, squash=0.86)


def _in_disc(rng: np.random.Generator) -> tuple[float, float]:
    """A random place in the unit disc: right, up."""
    turn, reach = float(rng.uniform(0, 2 * np.pi)), float(np.sqrt(rng.random()))
    return reach * float(np.cos(turn)), reach * float(np.sin(turn))


def lamp(canvas: Canvas, right_m: float, ahead_m: float, side: int) -> None:
    """A street lamp with an arm over the road."""
    top = 6.5
    canvas.bar((right_m, 0, ahead_m), (right_m, top, ahead_m), 0.16, _METAL, POLE)
    reach = right_m - side * 1.8
    canvas.bar((right_m, top, ahead_m), (reach, top + 0.3, ahead_m), 0.12, _METAL, POLE)
    canvas.bar(
        (reach, top + 0.3, ahead_m), (reach - side * 0.7, top + 0.3, ahead_m), 0.22, _METAL, POLE
    )


def traffic_light(canvas: Canvas, right_m: float, ahead_m: float, lit: str) -> None:
    """A traffic light on a pole, the lamp named `lit` (of `LAMPS`) shining."""
    canvas.bar((right_m, 0, ahead_m), (right_m, 2.6, ahead_m), 0.16, _METAL, POLE)
    housing = (-0.24, 0.24, 2.35, 3.55)
    _board(canvas, (right_m, ahead_m), housing, (40, 42, 38), TRAFFIC_LIGHT)
    lamps: tuple[tuple[str, float, Colour], ...] = (
        ("red", 3.3, (240, 64, 44)),
        ("amber", 2.95, (250, 180, 40)),
        ("green", 2.6, (60, 214, 110)),
    )
    for name, up, colour in lamps:
        shown = colour if name == lit else shade(colour, 0.38)
        canvas.disc((right_m, up, ahead_m), 0.15, shown, TRAFFIC_LIGHT)


def traffic_sign(canvas: Canvas, rng: np.random.Generator, right_m: float, ahead_m: float) -> None:
    """One of four kinds of sign on a pole."""
    canvas.bar((right_m, 0, ahead_m), (right_m, 2.9, ahead_m), 0.09, _METAL, POLE)
    _SIGNS[rng.integers(len(_SIGNS))](canvas, (right_m, ahead_m))


def _speed_limit(canvas: Canvas, place: _Place) -> None:
    centre = (place[0], _SIGN_M, place[1])
    canvas.disc(centre, 0.42, _RED, TRAFFIC_SIGN)
    canvas.disc(centre, 0.30, _WHITE, TRAFFIC_SIGN)
    _board(canvas, place, (-0.14, 0.14, _SIGN_M - 0.1, _SIGN_M + 0.1), _BLACK, TRAFFIC_SIGN)


def _warning(canvas: Canvas, place: _Place) -> None:
    corners = ((-0.48, -0.36), (0.48, -0.36), (0.0, 0.5))
    for size, colour in ((1.0, _RED), (0.62, _WHITE)):
        points = [(place[0] + x * size, _SIGN_M + y * size, place[1]) for x, y in corners]
        canvas.face(points, colour, TRAFFIC_SIGN)


def _priority_road(canvas: Canvas, place: _Place) -> None:
    corners = ((-0.46, 0.0), (0.0, -0.46), (0.46, 0.0), (0.0, 0.46))
    for size, colour in ((1.0, _WHITE), (0.72, _YELLOW)):
        points = [(place[0] + x * size, _SIGN_M + y * size, place[1]) for x, y in corners]
        canvas.face(points, colour, TRAFFIC_SIGN)


def _direction(canvas: Canvas, place: _Place) -> None:
    _board(canvas, place, (-0.7, 0.7, _SIGN_M - 0.35, _SIGN_M + 0.35), _BLUE, TRAFFIC_SIGN)
    for line in (0.12, -0.14):
        words = (-0.5, 0.4, _SIGN_M + line - 0.05, _SIGN_M + line + 0.05)
        _board(canvas, place, words, _WHITE, TRAFFIC_SIGN)


_SIGNS = (_speed_limit, _warning, _priority_road, _direction)


def litter_bin(canvas: Canvas, right_m: float, ahead_m: float) -> None:
    """A litter bin, which the annotations call static and ignore."""
    _board(canvas, (right_m, ahead_m), (-0.28, 0.28, 0, 0.95), (70, 80, 76), STATIC)
    _board(canvas, (right_m, ahead_m), (-0.32, 0.32, 0.9, 1.05), (48, 54, 52), STATIC)


def _board(
    canvas: Canvas,
    place: _Place,
    box: tuple[float, float, float, float],
    colour: Colour,
    label_id: int,
) -> None:
    """A rectangle that faces the camera; the box is left, right, low, high from the place."""
    left, right, low, high = box
    corners = ((left, low), (right, low), (right, high), (left, high))
    canvas.face([(place[0] + x, y, place[1]) for x, y in corners], colour, label_id)


def _upright(
    right_m: float, near_m: float, far_m: float, low_m: float, high_m: float
) -> list[Point]:
    """A rectangle along the street, standing on its edge."""
    return [
        (right_m, low_m, near_m),
        (right_m, high_m, near_m),
        (right_m, high_m, far_m),
        (right_m, low_m, far_m),
    ]
