"""The light of a day, and what it and the camera do to the finished picture."""

import numpy as np
from numpy.typing import NDArray

from bsprobe.training.cityscapes.scene.canvas import Light
from bsprobe.training.cityscapes.scene.surroundings import SKY, smooth_noise

LIGHTS = (
    Light(  # a blue day
        sky_top=(98, 150, 212),
        sky_low=(206, 222, 232),
        cloud=(246, 246, 248),
        cloud_cover=0.3,
        tint=(1.04, 1.02, 0.98),
        haze_reach_m=330.0,
    ),
    Light(  # overcast
        sky_top=(170, 184, 200),
        sky_low=(214, 220, 226),
        cloud=(226, 230, 234),
        cloud_cover=0.7,
        tint=(0.92, 0.94, 0.97),
        haze_reach_m=210.0,
    ),
    Light(  # a low sun
        sky_top=(104, 138, 190),
        sky_low=(240, 214, 186),
        cloud=(248, 222, 204),
        cloud_cover=0.45,
        tint=(1.08, 1.0, 0.9),
        haze_reach_m=260.0,
    ),
)

_GRAIN_BY_LABEL = {7: 5.0, 8: 5.0, 11: 4.0, 12: 6.0, 13: 6.0, 21: 13.0, 22: 11.0, 23: 1.5}
"""The grain of a surface by label id, in grey levels: leaves are rougher than the sky."""
_OTHER_GRAIN = 3.5
_COLOUR_NOISE = 1.5
"""Sensor noise, in grey levels, independent in red, green and blue."""


def weathered(
    image: NDArray[np.uint8], label: NDArray[np.uint8], rng: np.random.Generator, light: Light
) -> NDArray[np.uint8]:
    """Light, soft shade, the grain of each surface and sensor noise, on an HxWx3 image."""
    shape = label.shape
    grain = np.full(256, _OTHER_GRAIN, dtype=np.float32)
    for label_id, amplitude in _GRAIN_BY_LABEL.items():
        grain[label_id] = amplitude
    fine = rng.standard_normal(shape, dtype=np.float32)
    coarse = smooth_noise(rng, shape, (max(2, shape[0] // 8), max(2, shape[1] // 8))) - 0.5
    texture = grain[label] * (0.7 * fine + 1.6 * coarse)
    exposure = float(rng.uniform(0.86, 1.08))
    patches = 0.93 + 0.14 * smooth_noise(rng, shape, (4, 5))
    patches[label == SKY] = 1.0
    lit = image * (exposure * patches)[..., None] * np.asarray(light.tint, dtype=np.float32)
    noise = _COLOUR_NOISE * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(lit + texture[..., None] + noise, 0, 255).astype(np.uint8)
