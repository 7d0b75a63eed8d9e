"""A whole scene: the cross section of a street, what lines it, its traffic, and the camera."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bsprobe.records.units import Resolution
from bsprobe.training.cityscapes.scene import people, roadside, surroundings, vehicles
from bsprobe.training.cityscapes.scene.canvas import Camera, Canvas, chance
from bsprobe.training.cityscapes.scene.roadside import Stretch
from bsprobe.training.cityscapes.scene.surroundings import Street
from bsprobe.training.cityscapes.scene.themes import Theme
from bsprobe.training.cityscapes.scene.weather import LIGHTS, weathered

EGO_VEHICLE, OUT_OF_ROI = 1, 3
_REACH_M = 95.0
"""Beyond this nothing is put beside the road or on it: it would be a pixel or two."""
_NEAREST_END_M = 3.0
"""Houses that end nearer than this are outside the image."""

_Item = tuple[float, Callable[[], None]]
"""How far ahead something stands, and how to draw it."""
_FIGURES = {
    "cyclist": people.cyclist,
    "motorcyclist": people.motorcyclist,
    "bicycle": people.bicycle,
    "person": people.person,
}


def draw_street(
    size: Resolution, rng: np.random.Generator, theme: Theme
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one scene.

    Returns:
        The image, HxWx3, and its label ids, HxW.
    """
    light = LIGHTS[rng.integers(len(LIGHTS))]
    camera = Camera(
        focal_share=float(rng.uniform(0.62, 0.78)),
        horizon_share=float(rng.uniform(0.42, 0.48)),
        centre_share=float(rng.uniform(0.44, 0.56)),
        height_m=float(rng.uniform(1.35, 1.6)),
    )
    canvas = Canvas(size, camera=camera, light=light)
    street = _cross_section(rng, theme)
    surroundings.paint_sky(canvas, rng, light)
    surroundings.paint_backdrop(canvas, rng)
    surroundings.paint_ground(canvas, street, rng)
    surroundings.paint_markings(canvas, street, rng)
    if theme.oncoming == "train":
        surroundings.paint_rails(canvas, _oncoming_m(street) - 0.72)
    if theme.has_parking:
        surroundings.paint_parking(canvas, street.right_m - 2.1, street.right_m)
    items = [
        *_lined(canvas, street, rng, theme),
        *_planted(canvas, street, rng, theme),
        *_furnished(canvas, street, rng),
        *_driven(canvas, street, rng, theme),
        *_walked(canvas, street, rng, theme),
    ]
    for _, draw in sorted(items, key=lambda item: item[0], reverse=True):
        draw()
    _paint_camera_car(canvas, rng)
    image, label = canvas.develop()
    image = weathered(image, label, rng, light)
    _mark_rim(label)
    return image, label


def _cross_section(rng: np.random.Generator, theme: Theme) -> Street:
    """Own lane in the middle of the picture, parked cars to the right, the other way left."""
    lane = float(rng.uniform(3.1, 3.6))
    return Street(
        left_m=-1.5 * lane - (3.0 if theme.oncoming == "train" else 1.4),
        right_m=0.5 * lane + 2.3,
        lane_m=lane,
        sidewalk_m=float(rng.uniform(2.2, 3.4)),
        verge_m=theme.verge_m,
    )


def _oncoming_m(street: Street) -> float:
    """The middle of the lane that comes towards the camera."""
    return -street.lane_m


def _lined(
    canvas: Canvas, street: Street, rng: np.random.Generator, theme: Theme
) -> Iterator[_Item]:
    """Houses, walls, fences and hedges behind both sidewalks."""
    for side, kinds in ((-1, theme.left), (1, theme.right)):
        near = float(rng.uniform(-4, 4))
        turn = int(rng.integers(len(kinds)))
        while near < surroundings.FAR_M - 15:
            far = near + float(rng.uniform(9, 17))
            kind = kinds[turn % len(kinds)]
            if far > _NEAREST_END_M:
                stretch = Stretch(
                    side=side, front_m=street.front_m(side), near_m=max(near, 1.0), far_m=far
                )
                yield far, partial(_line, canvas, rng, kind, stretch)
            near = far + (0.0 if chance(rng, 0.7) else float(rng.uniform(1, 5)))
            turn += 1


def _line(canvas: Canvas, rng: np.random.Generator, kind: str, stretch: Stretch) -> None:
    """Draw one stretch."""
    if kind == "house":
        roadside.house(canvas, rng, stretch)
        return
    if kind == "wall":
        roadside.wall(canvas, stretch)
    elif kind == "fence":
        roadside.fence(canvas, stretch)
    elif kind == "hedge":
        roadside.hedge(canvas, rng, stretch)
    # Gardens: a tree rises behind whatever is low.
    behind = stretch.front_m + stretch.side * 5.0
    roadside.tree(canvas, rng, behind, (stretch.near_m + stretch.far_m) / 2 + 2, 8.0)


def _planted(
    canvas: Canvas, street: Street, rng: np.random.Generator, theme: Theme
) -> Iterator[_Item]:
    """Trees along the kerbs."""
    if theme.tree_spacing_m <= 0:
        return
    for side in (-1, 1):
        edge = street.left_m if side < 0 else street.right_m
        right = edge + side * max(0.5, street.verge_m / 2)
        ahead = float(rng.uniform(9, 9 + theme.tree_spacing_m))
        while ahead < _REACH_M:
            height = float(rng.uniform(6, 9.5))
            yield ahead, partial(roadside.tree, canvas, rng, right, ahead, height)
            ahead += theme.tree_spacing_m * float(rng.uniform(0.85, 1.2))


def _furnished(canvas: Canvas, street: Street, rng: np.random.Generator) -> Iterator[_Item]:
    """Lamps, signs, traffic lights and bins."""
    for side in (-1, 1):
        edge = street.left_m if side < 0 else street.right_m
        kerb = edge + side * 0.35
        ahead = float(rng.uniform(10, 24))
        while ahead < _REACH_M:
            yield ahead, partial(roadside.lamp, canvas, kerb, ahead, side)
            ahead += 25
        for _ in range(int(rng.integers(1, 4))):
            ahead = float(rng.uniform(7, 34))
            right = kerb + side * float(rng.uniform(0, 0.4))
            yield ahead, partial(roadside.traffic_sign, canvas, rng, right, ahead)
        if chance(rng, 0.75):
            ahead = float(rng.uniform(9, 26))
            lit = roadside.LAMPS[rng.integers(len(roadside.LAMPS))]
            yield ahead, partial(roadside.traffic_light, canvas, kerb, ahead, lit)
        if chance(rng, 0.4):
            ahead = float(rng.uniform(7, 20))
            yield ahead, partial(roadside.litter_bin, canvas, street.walk_m(side), ahead)


def _driven(
    canvas: Canvas, street: Street, rng: np.random.Generator, theme: Theme
) -> Iterator[_Item]:
    """The vehicle in front, those that come towards the camera, and parked cars."""

    def one(kind: str, middle: float, near: float, direction: int) -> _Item:
        draw = partial(vehicles.vehicle, canvas, rng, kind, (middle, near), direction)
        return near, draw

    yield one(theme.ahead, float(rng.uniform(-0.3, 0.3)), float(rng.uniform(13, 26)), 1)
    if chance(rng, 0.5):
        yield one("car", 0.0, float(rng.uniform(42, 70)), 1)
    near = float(rng.uniform(9, 18))
    for kind in (theme.oncoming, "car", "car"):
        yield one(kind, _oncoming_m(street), near, -1)
        near += vehicles.BODIES[kind].length_m + float(rng.uniform(8, 22))
    near = float(rng.uniform(5, 10))
    while near < _REACH_M:
        if chance(rng, 0.62):
            kind = "caravan" if chance(rng, 0.05) else "car"
            yield one(kind, street.right_m - 1.05, near, 1)
        near += float(rng.uniform(5.2, 7.5))


def _walked(
    canvas: Canvas, street: Street, rng: np.random.Generator, theme: Theme
) -> Iterator[_Item]:
    """People on the sidewalks and across the road, riders, and parked bicycles."""

    def one(kind: str, right: float, ahead: float) -> _Item:
        return ahead, partial(_FIGURES[kind], canvas, rng, right, ahead)

    for _ in range(int(rng.integers(5, 12))):
        side = -1 if chance(rng, 0.5) else 1
        right = street.walk_m(side) + float(rng.uniform(-0.7, 0.7))
        yield one("person", right, float(rng.uniform(7, 45)))
    if chance(rng, 0.4):
        right = float(rng.uniform(street.left_m, street.right_m))
        yield one("person", right, float(rng.uniform(9, 12)))
    places = rng.permutation((street.left_m + 0.9, 1.9, -1.9))
    for kind, right in zip(theme.riders, places.tolist(), strict=False):
        yield one(kind, right, float(rng.uniform(7, 12.5)))
    for _ in range(int(rng.integers(0, 4))):
        side = -1 if chance(rng, 0.5) else 1
        right = street.front_m(side) - side * 0.9
        yield one("bicycle", right, float(rng.uniform(8, 20)))


def _paint_camera_car(canvas: Canvas, rng: np.random.Generator) -> None:
    """The bonnet of the car that carries the camera."""
    if chance(rng, 0.7):
        rise = float(rng.uniform(0.05, 0.09))
        for inset, colour in ((0.0, (30, 32, 36)), (0.012, (58, 62, 70)), (0.035, (44, 47, 54))):
            arc = [
                (0.5 + 0.56 * float(np.cos(turn)), 1.0 + inset - rise * float(np.sin(turn)))
                for turn in np.linspace(0, np.pi, 40)
            ]
            canvas.overlay(arc, colour, EGO_VEHICLE)


def _mark_rim(label: NDArray[np.uint8]) -> None:
    """Ignore the rim of the image, as the official labels do where rectification left gaps."""
    rim = max(1, round(label.shape[0] / 128))
    for edge in (label[:rim], label[-rim:], label[:, :rim], label[:, -rim:]):
        edge[edge != EGO_VEHICLE] = OUT_OF_ROI
