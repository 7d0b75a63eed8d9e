"""People on foot, on bicycles and on motorcycles: flat figures that face the camera."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bsprobe.training.cityscapes.labels import Colour
from bsprobe.training.cityscapes.scene.canvas import Canvas, Point, shade

PERSON, RIDER, MOTORCYCLE, BICYCLE = 24, 25, 32, 33

_SKIN: tuple[Colour, ...] = ((222, 176, 146), (178, 126, 92), (122, 82, 60))
_HAIR: tuple[Colour, ...] = ((50, 38, 30), (30, 26, 26), (116, 84, 50))
_COATS: tuple[Colour, ...] = (
    (184, 58, 66),
    (198, 84, 104),
    (160, 44, 84),
    (206, 100, 80),
    (122, 64, 132),
    (214, 168, 176),
)
_RIDER_COATS: tuple[Colour, ...] = ((236, 128, 30), (242, 150, 44), (224, 110, 20))
_TROUSERS: tuple[Colour, ...] = ((74, 54, 70), (92, 62, 66), (60, 46, 58))
_TYRE: Colour = (44, 34, 36)
_SPOKES: Colour = (108, 92, 92)
_FRAMES: tuple[Colour, ...] = ((130, 30, 52), (110, 38, 60), (146, 52, 62))
_MOTOR_PAINTS: tuple[Colour, ...] = ((34, 40, 204), (52, 66, 220), (26, 26, 160))
_LARGEST_LEAN = 0.16


class _Figure:
    """Paints limbs in a plane that faces the camera: right and up of a foot point."""

    def __init__(self, canvas: Canvas, right_m: float, ahead_m: float, label_id: int) -> None:
        self._canvas = canvas
        self._right_m = right_m
        self._ahead_m = ahead_m
        self.label_id = label_id

    def place(self, across: float, up: float) -> Point:
        return (self._right_m + across, up, self._ahead_m)

    def limb(self, ends: Sequence[tuple[float, float]], thickness: float, colour: Colour) -> None:
        """A bent bar through the given places, rounded at each."""
        for start, end in pairwise(ends):
            self._canvas.bar(self.place(*start), self.place(*end), thickness, colour, self.label_id)
        for joint in ends:
            self.ball(joint, thickness / 2, colour)

    def ball(self, centre: tuple[float, float], radius: float, colour: Colour) -> None:
        self._canvas.disc(self.place(*centre), radius, colour, self.label_id)

    def patch(self, corners: Sequence[tuple[float, float]], colour: Colour) -> None:
        self._canvas.face([self.place(*corner) for corner in corners], colour, self.label_id)

    def shadow(self, half_width: float, strength: float) -> None:
        turns = np.linspace(0, 2 * np.pi, 12)
        self._canvas.shadow(
            [
                (
                    self._right_m + half_width * float(np.cos(turn)),
                    0.0,
                    self._ahead_m + 0.25 * float(np.sin(turn)),
                )
                for turn in turns
            ],
            strength,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Posture:
    """Where a rider touches the vehicle: right and up of the point below its middle."""

    seat: tuple[float, float]
    hands: tuple[float, float]
    foot: tuple[float, float]


_ON_BICYCLE = _Posture(seat=(-0.2, 0.95), hands=(0.25, 1.03), foot=(0.0, 0.2))
_ON_MOTORCYCLE = _Posture(seat=(-0.25, 0.86), hands=(0.3, 1.06), foot=(0.0, 0.3))


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return shade(colours[rng.integers(len(colours))], float(rng.uniform(0.85, 1.12)))


def person(canvas: Canvas, rng: np.random.Generator, right_m: float, ahead_m: float) -> None:
    """Somebody who walks."""
    figure = _Figure(canvas, right_m, ahead_m, PERSON)
    scale = float(rng.uniform(0.9, 1.06))
    stride = float(rng.uniform(0.05, 0.26))
    coat, trousers = _pick(rng, _COATS), _pick(rng, _TROUSERS)
    skin, hair = _pick(rng, _SKIN), _pick(rng, _HAIR)
    figure.shadow(0.42, 0.45)
    hip = (0.0, 0.88 * scale)
    for foot, tone in ((-stride, 0.8), (stride, 1.0)):
        knee = (foot * 0.6, 0.46 * scale)
        figure.limb([hip, knee, (foot, 0.07)], 0.15, shade(trousers, tone))
        figure.limb([(foot - 0.03, 0.05), (foot + 0.09, 0.05)], 0.09, (46, 38, 40))
    figure.limb([(-0.16, 1.34 * scale), (-0.26, 0.9 * scale)], 0.11, shade(coat, 0.78))
    torso = [(-0.19, 0.84), (-0.23, 1.3), (-0.13, 1.45), (0.13, 1.45), (0.23, 1.3), (0.19, 0.84)]
    figure.patch([(x, y * scale) for x, y in torso], coat)
    figure.limb([(0.18, 1.34 * scale), (0.25 + stride / 3, 0.92 * scale)], 0.11, shade(coat, 0.9))
    figure.limb([(0.0, 1.44 * scale), (0.0, 1.52 * scale)], 0.1, skin)
    figure.ball((0.0, 1.64 * scale), 0.125, hair)
    figure.ball((0.02, 1.61 * scale), 0.105, skin)


def bicycle(canvas: Canvas, rng: np.random.Generator, right_m: float, ahead_m: float) -> None:
    """A bicycle from the side; spokes and frame are labelled as one, as annotators do."""
    figure = _Figure(canvas, right_m, ahead_m, BICYCLE)
    frame = _pick(rng, _FRAMES)
    figure.shadow(0.85, 0.35)
    for hub in (-0.53, 0.53):
        figure.ball((hub, 0.35), 0.35, _TYRE)
        figure.ball((hub, 0.35), 0.28, _SPOKES)
        figure.ball((hub, 0.35), 0.06, _TYRE)
    saddle, head, pedals = (-0.22, 0.86), (0.36, 0.84), (-0.05, 0.33)
    figure.limb([(-0.53, 0.35), saddle, head, pedals, (-0.53, 0.35)], 0.07, frame)
    figure.limb([pedals, saddle], 0.07, frame)
    figure.limb([(0.53, 0.35), head, (0.3, 1.0), (0.18, 1.02)], 0.07, frame)
    figure.limb([(-0.34, 0.9), (-0.12, 0.9)], 0.08, _TYRE)


def cyclist(canvas: Canvas, rng: np.random.Generator, right_m: float, ahead_m: float) -> None:
    """A rider on a bicycle."""
    bicycle(canvas, rng, right_m, ahead_m)
    _sit(_Figure(canvas, right_m, ahead_m, RIDER), rng, _ON_BICYCLE)


def motorcycle(canvas: Canvas, rng: np.random.Generator, right_m: float, ahead_m: float) -> None:
    """A motorcycle from the side."""
    figure = _Figure(canvas, right_m, ahead_m, MOTORCYCLE)
    paint = _pick(rng, _MOTOR_PAINTS)
    figure.shadow(1.05, 0.45)
    for hub in (-0.7, 0.7):
        figure.ball((hub, 0.33), 0.33, (30, 30, 44))
        figure.ball((hub, 0.33), 0.15, (126, 128, 150))
    figure.patch([(-0.5, 0.32), (-0.42, 0.66), (0.34, 0.66), (0.45, 0.32)], (58, 58, 76))
    figure.patch([(-0.95, 0.84), (-0.3, 0.66), (0.1, 0.68), (0.1, 0.8), (-0.5, 0.86)], paint)
    figure.patch([(-0.05, 0.66), (0.0, 0.94), (0.4, 0.98), (0.52, 0.7)], paint)
    figure.limb([(0.7, 0.33), (0.42, 0.98), (0.3, 1.06)], 0.09, (96, 98, 118))
    figure.ball((0.55, 0.86), 0.11, (238, 236, 214))


def motorcyclist(canvas: Canvas, rng: np.random.Generator, right_m: float, ahead_m: float) -> None:
    """A rider on a motorcycle."""
    motorcycle(canvas, rng, right_m, ahead_m)
    _sit(_Figure(canvas, right_m, ahead_m, RIDER), rng, _ON_MOTORCYCLE)


def _sit(figure: _Figure, rng: np.random.Generator, posture: _Posture) -> None:
    """Whoever rides: orange clothes and a helmet, so that a small net can tell them apart."""
    seat, hands, foot = posture.seat, posture.hands, posture.foot
    coat, trousers = _pick(rng, _RIDER_COATS), _pick(rng, _TROUSERS)
    lean = float(rng.uniform(0.06, _LARGEST_LEAN))
    shoulder = (seat[0] + 0.12 + lean, seat[1] + 0.52)
    knee = (seat[0] + 0.38, (seat[1] + foot[1]) / 2 + 0.1)
    figure.limb([seat, knee], 0.2, shade(trousers, 1.1))
    figure.limb([knee, foot], 0.14, shade(trousers, 1.1))
    figure.limb([foot, (foot[0] + 0.14, foot[1])], 0.09, (40, 34, 36))
    figure.limb([seat, shoulder], 0.31, coat)
    figure.limb([shoulder, (hands[0] - 0.12, hands[1] + 0.1), hands], 0.11, shade(coat, 0.82))
    head = (shoulder[0] + 0.08, shoulder[1] + 0.27)
    figure.ball(head, 0.14, _pick(rng, _SKIN))
    figure.ball((head[0] - 0.01, head[1] + 0.06), 0.145, shade(coat, 0.7))
