"""Drawn street scenes: flat shapes seen by a pinhole camera, painted as labels and as shades."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

from bsprobe.records.units import Resolution
from bsprobe.training.cityscapes.labels import LABELS

_Pixels = NDArray[np.uint8]
_IDS = {label.name: label.label_id for label in LABELS}
_COLOURS = (
    "ego vehicle darkslategray, road gray, sidewalk thistle, building sienna, wall burlywood, "
    "fence plum, pole black, traffic light lime, traffic sign blue, vegetation forestgreen, "
    "terrain yellowgreen, sky lightskyblue, person crimson, rider darkorange, car steelblue, "
    "truck whitesmoke, bus gold, train darkcyan, motorcycle darkviolet, bicycle maroon"
)
# In grey levels: the depth of stripes, horizontal ones if negative; the noise, 5 if not listed.
_STRIPES = {"fence": 45, "truck": 25, "train": 15, "wall": -40, "sidewalk": -12, "bus": -20}
_NOISE = {"vegetation": 24, "terrain": 14, "road": 8, "sidewalk": 8, "building": 8, "sky": 2}
# A part: shape, class, (left, top, right, bottom) in metres from the foot, shade in percent.
_BOX, _BALL = "rectangle", "ellipse"
_POLE = (_BOX, "pole", (-0.12, 3.6, 0.12, 0), 100)
_PERSON = ((_BOX, "person", (-0.3, 1.6, 0.3, 0), 85), (_BALL, "person", (-0.2, 2, 0.2, 1.5), 115))
_RIDER = ((_BOX, "rider", (-0.3, 1.6, 0.3, 0.5), 95), (_BALL, "rider", (-0.2, 2, 0.2, 1.5), 115))
_CYCLE = ((-1, 0.8, -0.2, 0), (0.2, 0.8, 1, 0), (-0.7, 0.9, 0.7, 0.5))
_THINGS: dict[str, tuple[tuple[str, str, tuple[float, float, float, float], int], ...]] = {
    "tree": ((_BOX, "vegetation", (-0.2, 3, 0.2, 0), 60), (_BALL, "vegetation", (-2, 6, 2, 1), 99)),
    "person": _PERSON,
    "light": (_POLE, (_BOX, "traffic light", (-0.35, 3.9, 0.35, 2.7), 100)),
    "sign": (_POLE, (_BALL, "traffic sign", (-0.5, 3.8, 0.5, 2.8), 100)),
    "car": ((_BOX, "car", (-0.8, 1.6, 0.8, 0.9), 60), (_BOX, "car", (-1, 1.1, 1, 0.1), 100)),
    "truck": ((_BOX, "truck", (-1.2, 1, 1.2, 0), 30), (_BOX, "truck", (-1.3, 4, 1.3, 0.6), 100)),
    "bus": ((_BOX, "bus", (-1.3, 3.1, 1.3, 0.2), 100), (_BOX, "bus", (-1.1, 2.7, 1.1, 1.7), 40)),
    "train": ((_BOX, "train", (-1.4, 4, 1.4, 0), 100), (_BOX, "train", (-1.1, 3.2, 1.1, 2), 40)),
    "cyclist": (*((_BALL, "bicycle", box, 100) for box in _CYCLE), *_RIDER),
    "motorcyclist": (*((_BALL, "motorcycle", box, 100) for box in _CYCLE), *_RIDER),
}
_PLACES = (  # things in turn, range of metres from the middle, range of metres ahead
    (("tree",), (9.0, 11.0), (12, 30)),
    (("car", "truck", "bus", "train"), (2.0, 2.8), (10, 16)),
    (("car",), (4.2, 4.6), (7, 12)),
    (("person",), (6.4, 7.6), (7, 14)),
    (("light", "sign"), (5.9, 6.3), (8, 13)),
    (("cyclist", "motorcyclist"), (0.8, 1.8), (6, 10)),
)
_GROUND = (("terrain", 99.0, 100), ("sidewalk", 8.6, 100), ("road", 5.6, 100), ("road", 0.1, 180))
_ROWS = (("building", 9.0), ("wall", 2.8), ("vegetation", 3.0), ("fence", 2.2))


def draw_street(index: int, size: Resolution, rng: np.random.Generator) -> tuple[_Pixels, _Pixels]:
    """Draw a scene.

    Args:
        index: Selects the things in the scene.
        size: Height and width of the image.
        rng: Places and shades the things.

    Returns:
        The image, HxWx3, and its label ids, HxW, both uint8.
    """
    canvases = [Image.new("L", (size.width, size.height), fill) for fill in (_IDS["sky"], 100)]
    focal, edge = min(0.7 * size.width, 1.4 * size.height), min(1, size.width / size.height)
    middle, horizon = size.width * rng.uniform(0.42, 0.58), size.height * rng.uniform(0.42, 0.48)

    def paint(shape: str, name: str, points: list[tuple[float, float, float]], tone: float) -> None:
        flat = [(middle + x * focal / z, horizon + (1.5 - y) * focal / z) for x, y, z in points]
        for canvas, fill in zip(canvases, (_IDS[name], int(tone)), strict=True):
            getattr(ImageDraw.Draw(canvas), shape)(flat, fill=fill)

    for name, x, shade in _GROUND:
        paint("polygon", name, [(-x, 0, edge), (-x, 0, 99), (x, 0, 99), (x, 0, edge)], shade)
    for step, side in ((step, side) for step in range(7, 0, -1) for side in (-1, 1)):
        name, top = _ROWS[(index + step + side) % len(_ROWS)]
        x, near, far, tone = 11 * side, 1.7**step, 1.7 ** (step + 1), rng.uniform(85, 110)
        paint(_BOX, name, [(min(x, 5 * x), top, near), (max(x, 5 * x), 0, near)], 0.8 * tone)
        paint("polygon", name, [(x, top, near), (x, top, far), (x, 0, far), (x, 0, near)], tone)
    for (kinds, across, ahead), side in ((place, side) for place in _PLACES for side in (-1, 1)):
        x, z, tone = side * rng.uniform(*across), rng.uniform(*ahead), rng.uniform(0.85, 1.1)
        for shape, name, box, shade in _THINGS[kinds[(index + (side > 0)) % len(kinds)]]:
            paint(shape, name, [(x + box[0], box[1], z), (x + box[2], box[3], z)], shade * tone)
    return _finished(np.array(canvases[0]), np.array(canvases[1]), rng)


def _finished(label: _Pixels, shades: _Pixels, rng: np.random.Generator) -> tuple[_Pixels, _Pixels]:
    """Add the bonnet and the rim, and give every class its colour, stripes and noise."""
    (y, x), (high, wide) = np.indices(label.shape), label.shape
    looks = np.zeros((256, 5), dtype=np.float32)
    for name, colour in (entry.rsplit(" ", 1) for entry in _COLOURS.split(", ")):
        looks[_IDS[name]] = *ImageColor.getrgb(colour), _STRIPES.get(name, 0), _NOISE.get(name, 5)
    bonnet = np.hypot((x / wide - 0.5) / 0.62, (y / high - 1.1) / 0.2) < rng.choice((1, 1, 0))
    label[bonnet], shades[bonnet] = _IDS["ego vehicle"], 100
    colours, stripes, noise = np.split(looks[label], (3, 4), axis=2)
    bands = np.where(stripes[..., 0] > 0, x, y) * 40 // (high + wide) % 2
    noise = noise * rng.standard_normal((high, wide, 1)) - abs(stripes) * bands[..., None]
    lit = colours * shades[..., None] / 100 * rng.uniform(0.85, 1.1) + noise
    rim = np.minimum(np.minimum(x, wide - 1 - x), np.minimum(y, high - 1 - y)) < max(1, high // 128)
    label[rim & (label != _IDS["ego vehicle"])] = _IDS["out of roi"]
    return np.clip(lit, 0, 255).astype(np.uint8), label
