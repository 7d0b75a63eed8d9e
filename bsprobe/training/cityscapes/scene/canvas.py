"""A picture and its label image, painted together through one pinhole camera."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bsprobe.records.units import Resolution
from bsprobe.training.cityscapes.labels import Colour

Point = tuple[float, float, float]
"""A place in the world in metres: right of the camera, above the road, ahead of the camera."""

_OVERSAMPLING = 2
"""Painted this much larger and averaged down, which softens the edges of the image."""
_NEAREST_M = 0.6
"""Nothing is projected from nearer than this, where the image plane would explode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """Where the camera stands and looks, as shares of the image it takes."""

    focal_share: float
    """Focal length over image width."""
    horizon_share: float
    """The height of the horizon, from the top, over image height."""
    centre_share: float
    """The vanishing point of the street, from the left, over image width."""
    height_m: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """What the weather does to every colour."""

    sky_top: Colour
    sky_low: Colour
    cloud: Colour
    cloud_cover: float
    """0 for a blue sky, 1 for none."""
    tint: tuple[float, float, float]
    """What red, green and blue are multiplied with."""
    haze_reach_m: float
    """The distance at which 63 % of a colour are replaced by that of the low sky."""


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` with the given share of `second` in it."""
    return (
        round(first[0] + (second[0] - first[0]) * share),
        round(first[1] + (second[1] - first[1]) * share),
        round(first[2] + (second[2] - first[2]) * share),
    )


def shade(colour: Colour, factor: float) -> Colour:
    """The colour, darker (below 1) or brighter (above 1)."""
    red, green, blue = (min(255, round(part * factor)) for part in colour)
    return red, green, blue


def chance(rng: np.random.Generator, share: float) -> bool:
    """True in the given share of all calls."""
    return bool(rng.random() < share)


class Canvas:
    """Paints polygons of the world into an image and, with a label id, into its label image."""

    def __init__(self, size: Resolution, *, camera: Camera, light: Light) -> None:
        self.size = size
        self.camera = camera
        self.light = light
        self._width = size.width * _OVERSAMPLING
        self._height = size.height * _OVERSAMPLING
        self._image = Image.new("RGB", (self._width, self._height), light.sky_low)
        self._label = Image.new("L", (self._width, self._height), 0)
        self._paint = ImageDraw.Draw(self._image)
        self._mark = ImageDraw.Draw(self._label)

    def pixels_per_metre(self, ahead_m: float) -> float:
        """How large a metre appears at a distance, in pixels of the oversampled image."""
        return self.camera.focal_share * self._width / max(ahead_m, _NEAREST_M)

    def project(self, point: Point) -> tuple[float, float]:
        """The pixel of a place in the world, in the oversampled image: x, y."""
        right, up, ahead = point
        scale = self.pixels_per_metre(ahead)
        return (
            self.camera.centre_share * self._width + right * scale,
            self.camera.horizon_share * self._height + (self.camera.height_m - up) * scale,
        )

    def fill(self, picture: Image.Image, label_id: int) -> None:
        """Cover everything with a picture, stretched to the canvas, and one label."""
        stretched = picture.resize((self._width, self._height), Image.Resampling.BICUBIC)
        self._image.paste(stretched)
        self._label.paste(label_id, (0, 0, self._width, self._height))

    def face(self, points: Sequence[Point], colour: Colour, label_id: int) -> None:
        """Paint a flat polygon."""
        corners = [self.project(point) for point in points]
        ahead_m = sum(point[2] for point in points) / len(points)
        self._paint.polygon(corners, fill=self._hazed(colour, ahead_m))
        self._mark.polygon(corners, fill=label_id)

    def bar(
        self, start: Point, end: Point, thickness_m: float, colour: Colour, label_id: int
    ) -> None:
        """Paint a straight bar of the given thickness, at least one pixel of the image."""
        ahead_m = (start[2] + end[2]) / 2
        pixels = max(_OVERSAMPLING, round(thickness_m * self.pixels_per_metre(ahead_m)))
        ends = [self.project(start), self.project(end)]
        self._paint.line(ends, fill=self._hazed(colour, ahead_m), width=pixels)
        self._mark.line(ends, fill=label_id, width=pixels)

    def disc(
        self, centre: Point, radius_m: float, colour: Colour, label_id: int, *, squash: float = 1.0
    ) -> None:
        """Paint a disc that faces the camera; `squash` is its height over its width."""
        x, y = self.project(centre)
        across = radius_m * self.pixels_per_metre(centre[2])
        box = (x - across, y - across * squash, x + across, y + across * squash)
        self._paint.ellipse(box, fill=self._hazed(colour, centre[2]))
        self._mark.ellipse(box, fill=label_id)

    def shadow(self, points: Sequence[Point], strength: float) -> None:
        """Darken a polygon of the image; the label does not change."""
        corners = [self.project(point) for point in points]
        self._darken(corners, strength)

    def overlay(
        self, corners: Sequence[tuple[float, float]], colour: Colour, label_id: int
    ) -> None:
        """Paint what is fixed to the camera; corners are shares of the width and the height."""
        pixels = [(x * self._width, y * self._height) for x, y in corners]
        self._paint.polygon(pixels, fill=colour)
        self._mark.polygon(pixels, fill=label_id)

    def develop(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The image, HxWx3, averaged down, and the label image, HxW, of unmixed label ids."""
        small = self._image.resize((self.size.width, self.size.height), Image.Resampling.BOX)
        label = np.asarray(self._label)[::_OVERSAMPLING, ::_OVERSAMPLING]
        return np.array(small), np.ascontiguousarray(label)

    def _hazed(self, colour: Colour, ahead_m: float) -> Colour:
        share = 1 - float(np.exp(-max(ahead_m, 0.0) / self.light.haze_reach_m))
        return mix(colour, self.light.sky_low, share)

    def _darken(self, corners: Sequence[tuple[float, float]], strength: float) -> None:
        left = max(0, int(min(x for x, _ in corners)))
        upper = max(0, int(min(y for _, y in corners)))
        right = min(self._width, int(max(x for x, _ in corners)) + 2)
        lower = min(self._height, int(max(y for _, y in corners)) + 2)
        if left >= right or upper >= lower:
            return
        mask = Image.new("L", (right - left, lower - upper), 0)
        moved = [(x - left, y - upper) for x, y in corners]
        ImageDraw.Draw(mask).polygon(moved, fill=round(255 * strength))
        self._image.paste((12, 14, 22), (left, upper), mask)
