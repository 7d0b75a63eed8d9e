"""Cars, trucks, buses and trams: side views, extruded across their width."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from bsprobe.training.cityscapes.labels import Colour
from bsprobe.training.cityscapes.scene.canvas import Canvas, Point, mix, shade

CAR, TRUCK, BUS, CARAVAN, TRAIN = 26, 27, 28, 29, 31

_GLASS: Colour = (54, 66, 80)
_TYRE: Colour = (32, 32, 34)
_HUB: Colour = (146, 148, 152)
_TAIL: Colour = (198, 30, 34)
_HEAD: Colour = (250, 246, 224)
_PLATE: Colour = (234, 234, 228)
_NO_CABIN_M = 100.0
_GLASS_SLOPES = (0.3, 0.8)
"""Rise over rise and run, between which a slope of a cabin is a window, not a roof."""
_CAR_PAINTS: tuple[Colour, ...] = (
    (44, 62, 128),
    (30, 40, 84),
    (62, 88, 156),
    (54, 58, 82),
    (126, 134, 160),
    (20, 24, 52),
    (188, 194, 204),
    (120, 34, 46),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A vehicle as its silhouette from the side, (along, up) in metres, back end first."""

    silhouette: tuple[tuple[float, float], ...]
    windows: tuple[tuple[tuple[float, float], ...], ...]
    wheels: tuple[float, ...]
    """Where the wheels touch the road, along the vehicle."""
    wheel_m: float
    """Radius of a wheel."""
    width_m: float
    paint: Colour
    stripe: Colour | None
    """A band along the side, for vehicles that carry one."""
    label_id: int
    rear_window: tuple[float, float]
    """From where to where up the tail there is glass; (0, 0) for none."""
    windscreen: tuple[float, float]
    """The same for the front; (0, 0) where the slope of the silhouette shows it."""
    cabin_m: float
    """Above this height the body is narrower and its slopes are glass."""

    @property
    def length_m(self) -> float:
        """From bumper to bumper."""
        return max(along for along, _ in self.silhouette)


_CAR = Body(
    silhouette=(
        (0.0, 0.32),
        (0.02, 0.92),
        (0.35, 1.40),
        (0.7, 1.47),
        (2.2, 1.45),
        (3.05, 0.98),
        (4.05, 0.82),
        (4.2, 0.32),
    ),
    windows=(
        ((0.45, 0.95), (0.72, 1.36), (1.35, 1.38), (1.35, 0.95)),
        ((1.45, 0.95), (1.45, 1.38), (2.15, 1.36), (2.85, 0.97)),
    ),
    wheels=(0.75, 3.4),
    wheel_m=0.33,
    width_m=1.76,
    paint=_CAR_PAINTS[0],
    stripe=None,
    label_id=CAR,
    rear_window=(0.0, 0.0),
    windscreen=(0.0, 0.0),
    cabin_m=1.2,
)
_TRUCK = Body(
    silhouette=((0, 0.6), (0, 3.6), (6.2, 3.6), (6.2, 2.8), (7.6, 2.7), (7.9, 0.6)),
    windows=(((6.5, 1.7), (6.5, 2.5), (7.5, 2.5), (7.7, 1.7)),),
    wheels=(1.0, 2.0, 6.8),
    wheel_m=0.5,
    width_m=2.45,
    paint=(206, 198, 176),
    stripe=(150, 120, 60),
    label_id=TRUCK,
    rear_window=(0.0, 0.0),
    windscreen=(1.5, 2.5),
    cabin_m=_NO_CABIN_M,
)
_BUS = Body(
    silhouette=((0, 0.4), (0, 3.05), (11.0, 3.05), (11.2, 0.4)),
    windows=tuple(
        ((start, 1.4), (start, 2.5), (start + 1.5, 2.5), (start + 1.5, 1.4))
        for start in (0.5, 2.2, 3.9, 5.6, 7.3, 9.0)
    ),
    wheels=(2.4, 8.8),
    wheel_m=0.48,
    width_m=2.5,
    paint=(206, 166, 58),
    stripe=(120, 50, 46),
    label_id=BUS,
    rear_window=(1.4, 2.6),
    windscreen=(1.2, 2.7),
    cabin_m=_NO_CABIN_M,
)
_TRAM = Body(
    silhouette=((0, 0.25), (0, 3.4), (24.0, 3.4), (24.3, 0.25)),
    windows=tuple(
        ((start, 1.3), (start, 2.6), (start + 1.9, 2.6), (start + 1.9, 1.3))
        for start in (0.6, 2.9, 5.2, 7.5, 9.8, 12.1, 14.4, 16.7, 19.0, 21.3)
    ),
    wheels=(),
    wheel_m=0.3,
    width_m=2.4,
    paint=(40, 142, 118),
    stripe=(228, 226, 210),
    label_id=TRAIN,
    rear_window=(1.3, 2.7),
    windscreen=(1.3, 2.8),
    cabin_m=_NO_CABIN_M,
)
_CARAVAN = Body(
    silhouette=((0, 0.45), (0, 2.3), (0.4, 2.55), (4.2, 2.55), (4.7, 2.2), (4.7, 0.45)),
    windows=(((1.2, 1.3), (1.2, 1.9), (2.4, 1.9), (2.4, 1.3)),),
    wheels=(2.3,),
    wheel_m=0.33,
    width_m=2.2,
    paint=(226, 222, 210),
    stripe=(170, 150, 120),
    label_id=CARAVAN,
    rear_window=(1.3, 1.9),
    windscreen=(0.0, 0.0),
    cabin_m=_NO_CABIN_M,
)
BODIES = {"car": _CAR, "truck": _TRUCK, "bus": _BUS, "train": _TRAM, "caravan": _CARAVAN}


def vehicle(
    canvas: Canvas,
    rng: np.random.Generator,
    kind: str,
    place: tuple[float, float],
    direction: int,
) -> None:
    """Draw a vehicle; direction 1 drives away from the camera, -1 towards it.

    Args:
        canvas: What to paint on.
        rng: Picks the colour.
        kind: A key of `BODIES`.
        place: The middle of the end that is nearer to the camera: metres right of the camera,
            metres ahead.
        direction: Whether the camera sees the tail or the front.
    """
    middle_m, near_m = place
    body = BODIES[kind]
    paint = body.paint
    if kind == "car":
        paint = _CAR_PAINTS[rng.integers(len(_CAR_PAINTS))]
    body = replace(body, paint=shade(paint, float(rng.uniform(0.9, 1.12))))
    if direction < 0:
        body = _turned(body)
    _ground_shadow(canvas, body, middle_m, near_m)
    half = body.width_m / 2
    sides = sorted((middle_m - half, middle_m + half), key=abs, reverse=True)
    _side(canvas, body, sides[0], near_m)  # the far side first: it shows under the body
    _hull(canvas, body, middle_m, near_m)
    if abs(middle_m) > half:
        _side(canvas, body, sides[1], near_m)
    _near_end(canvas, body, middle_m, near_m, direction)


def _turned(body: Body) -> Body:
    """The same body with its front end first."""
    length = body.length_m
    return replace(
        body,
        silhouette=tuple((length - along, up) for along, up in reversed(body.silhouette)),
        windows=tuple(
            tuple((length - along, up) for along, up in window) for window in body.windows
        ),
        wheels=tuple(length - along for along in body.wheels),
    )


def _ground_shadow(canvas: Canvas, body: Body, middle_m: float, near_m: float) -> None:
    half = body.width_m / 2 + 0.15
    far_m = near_m + body.length_m
    canvas.shadow(
        [
            (middle_m - half, 0, near_m - 0.1),
            (middle_m - half, 0, far_m),
            (middle_m + half, 0, far_m),
            (middle_m + half, 0, near_m - 0.1),
        ],
        0.55,
    )


def _hull(canvas: Canvas, body: Body, middle_m: float, near_m: float) -> None:
    """The surfaces across the vehicle, from the far end to the near one."""
    outline = list(pairwise(body.silhouette))
    for (start, low), (end, high) in sorted(outline, key=lambda edge: -edge[0][0] - edge[1][0]):
        rise = high - low
        slope = rise / (abs(end - start) + abs(rise) + 1e-6)
        is_slanted = _GLASS_SLOPES[0] < abs(slope) < _GLASS_SLOPES[1]
        is_glass = is_slanted and max(low, high) > body.cabin_m
        colour = _GLASS if is_glass else shade(body.paint, 1.12 - 0.26 * max(slope, 0.0))
        half_low = _half_width(body, low)
        half_high = _half_width(body, high)
        corners: list[Point] = [
            (middle_m - half_low, low, near_m + start),
            (middle_m - half_high, high, near_m + end),
            (middle_m + half_high, high, near_m + end),
            (middle_m + half_low, low, near_m + start),
        ]
        canvas.face(corners, colour, body.label_id)


def _half_width(body: Body, up_m: float) -> float:
    """Half the width at a height: the cabin of a car is narrower than its doors."""
    half = body.width_m / 2
    return half * 0.84 if up_m > body.cabin_m else half


def _side(canvas: Canvas, body: Body, right_m: float, near_m: float) -> None:
    """The side of the vehicle that the camera sees, with windows and wheels."""
    inward = -1.0 if right_m > 0 else 1.0
    lean = inward if abs(right_m) < body.width_m else -np.sign(inward)

    def place(along: float, up: float) -> Point:
        drawn_in = body.width_m / 2 - _half_width(body, up)
        return (right_m + float(lean) * -drawn_in, up, near_m + along)

    def paint_face(outline: Sequence[tuple[float, float]], colour: Colour) -> None:
        canvas.face([place(along, up) for along, up in outline], colour, body.label_id)

    paint_face(body.silhouette, shade(body.paint, 0.84))
    if body.stripe is not None:
        paint_face(_band(body, 0.75, 1.15), body.stripe)
    for window in body.windows:
        paint_face(window, _GLASS)
    for along in body.wheels:
        for share, colour in ((1.0, _TYRE), (0.55, _HUB)):
            turns = np.linspace(0, 2 * np.pi, 16)
            radius = body.wheel_m * share
            rim = [
                (along + radius * float(np.cos(turn)), body.wheel_m + radius * float(np.sin(turn)))
                for turn in turns
            ]
            canvas.face([(right_m, up, near_m + on) for on, up in rim], colour, body.label_id)


def _band(body: Body, low: float, high: float) -> list[tuple[float, float]]:
    end = body.length_m - 0.3
    return [(0.05, low), (0.05, high), (end, high), (end, low)]


def _near_end(canvas: Canvas, body: Body, middle_m: float, near_m: float, direction: int) -> None:
    """Tail or front: glass, lamps, plate and the tyres below."""
    half = body.width_m / 2
    label_id = body.label_id

    def board(left: float, right: float, low: float, high: float, colour: Colour) -> None:
        corners = [(left, low), (right, low), (right, high), (left, high)]
        points = [(middle_m + x, y, near_m - 0.01) for x, y in corners]
        canvas.face(points, colour, label_id)

    bottom = min(up for _, up in body.silhouette)
    for left in (-half + 0.05, half - 0.3):
        board(left, left + 0.25, 0.0, bottom + 0.1, _TYRE)
    board(-half, half, bottom, bottom + 0.22, mix(body.paint, (40, 40, 44), 0.6))
    low, high = body.rear_window if direction > 0 else body.windscreen
    if high > low:
        board(-half + 0.2, half - 0.2, low, high, _GLASS)
    lamp = _TAIL if direction > 0 else _HEAD
    lamp_up = 0.72 if label_id == CAR else bottom + 0.35
    if direction < 0 and label_id == CAR:
        lamp_up = 0.6
    for left in (-half + 0.06, half - 0.36):
        board(left, left + 0.3, lamp_up, lamp_up + 0.17, lamp)
    board(-0.26, 0.26, bottom + 0.18, bottom + 0.3, _PLATE)
    if label_id == TRUCK and direction > 0:  # the two doors of the box
        board(-0.02, 0.02, bottom + 0.4, 3.5, shade(body.paint, 0.6))
