"""1x1 convolutions that cuDNN runs as matrix products on a real card.

On a card of compute capability 9.0, cuDNN 9.19 prefers another engine for most 1x1 convolutions of
stride 1: a matrix product for each image, without layout conversion. Queried for a described card,
cuDNN does not list that engine. Its workspaces and the conditions below come from the histories of
an H100 in `tests/data/truth`, in the contiguous layout; `reports/accuracy.md` has the share of
workspaces that are right. cuDNN chooses by expected time. The limits below lie between the recorded
sizes. Other cards were not recorded.
"""

import math
from typing import Final

from bsprobe.simulate.cudnn.convolutions import Convolution, Direction

MEASURED_CAPABILITY: Final = (9, 0)
_LEAST_POSITIONS: Final = 1024
"""Least spatial positions for the matrix product: 2048 positions used it, 1 position did not."""
_LEAST_CHANNELS: Final = 64
"""Least channels for a weight gradient; between 40 and 64 channels both engines were recorded."""
_SMALL_FP32_WEIGHT: Final = 64 * 64
"""Weight elements up to which fp32 weight gradients use the listed plans."""
_LARGE_FP32_WEIGHT: Final = 2**20
"""Weight elements (512 x 2048) from which fp32 forward passes and gradients of the input use the
listed plans."""
_ALIGNED: Final = 8
"""fp16 elements in 16 bytes. Forward passes on other numbers of positions, with many images and
channels, use the listed plans."""
_MANY_CHANNELS, _MANY_IMAGES = 512, 5
_SUM_BYTES: Final = 4


def matrix_product_bytes(convolution: Convolution) -> int | None:
    """Bytes of the workspace, if cuDNN runs a convolution as a matrix product.

    Args:
        convolution: A convolution that runs on cuDNN on a card of `MEASURED_CAPABILITY`.

    Returns:
        0 for the forward pass and the gradient of the input. For the gradient of the weight, the
        bytes of one fp32 copy per image. None if cuDNN runs one of its listed plans.
    """
    if not _is_pointwise(convolution):
        return None
    images, channels, *spatial = convolution.input_size
    outputs = convolution.weight_size[0]
    positions, weight = math.prod(spatial), channels * outputs
    if positions < _LEAST_POSITIONS:
        return None
    is_fp32 = convolution.dtype == "float32"
    if convolution.direction is Direction.WEIGHT_GRADIENT:
        is_small = min(channels, outputs) < _LEAST_CHANNELS
        if is_small or (is_fp32 and weight <= _SMALL_FP32_WEIGHT):
            return None
        return images * weight * _SUM_BYTES
    if is_fp32:
        return 0 if weight < _LARGE_FP32_WEIGHT else None
    is_described = (
        convolution.direction is Direction.FORWARD
        and positions % _ALIGNED != 0
        and channels >= _MANY_CHANNELS
        and images >= _MANY_IMAGES
    )
    return None if is_described else 0


def _is_pointwise(convolution: Convolution) -> bool:
    return (
        not convolution.channels_last
        and convolution.groups == 1
        and set(convolution.weight_size[2:]) == {1}
        and set(convolution.stride) == {1}
        and set(convolution.padding) == {0}
    )
