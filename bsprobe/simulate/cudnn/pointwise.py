"""1x1 convolutions that cuDNN runs as matrix products, by an engine that only real cards get.

On a card of compute capability 9.0 cuDNN 9.19 puts one more engine before the others for most 1x1
convolutions of stride 1: a matrix product for each image, which converts no layout. Asked about a
card that is only described, cuDNN does not name it. What it takes and where it is chosen was read
off the histories of an H100 in `tests/data/truth`, in the contiguous layout (`reports/accuracy.md`
says how many workspaces are right). cuDNN chooses by expected time; the limits below lie between
what was recorded, and of other cards nothing was.
"""

import math
from typing import Final

from bsprobe.simulate.cudnn.convolutions import Convolution, Direction

MEASURED_CAPABILITY: Final = (9, 0)
_LEAST_POSITIONS: Final = 1024
"""A pooled map of one pixel runs as it is described; 2048 positions did not."""
_LEAST_CHANNELS: Final = 64
"""For the gradient of a weight; between 40 and 64 both were recorded."""
_SMALL_FP32_WEIGHT: Final = 64 * 64
_LARGE_FP32_WEIGHT: Final = 2**20
"""From 512 x 2048 on, fp32 forward passes and gradients of the input run as they are described."""
_ALIGNED: Final = 8
"""fp16 elements of 16 bytes: with other rows, many images of many channels run as described."""
_MANY_CHANNELS, _MANY_IMAGES = 512, 5
_SUM_BYTES: Final = 4


def matrix_product_bytes(convolution: Convolution) -> int | None:
    """The workspace of the matrix product that is run for a convolution.

    Args:
        convolution: One that PyTorch hands to cuDNN on a card of `MEASURED_CAPABILITY`.

    Returns:
        0 for the forward pass and the gradient of the input; for the gradient of the weight, one
        fp32 copy of it for each image. None where no matrix product is run.
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
