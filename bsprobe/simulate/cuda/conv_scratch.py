"""What convolutions allocate inside: copies in another layout, and cuDNN's workspace."""

from typing import Any

import torch
from torch._prims_common import suggest_memory_format

from bsprobe.simulate.cuda.effects import Effects, Held, Inside, copies
from bsprobe.simulate.cuda.sums import reduction
from bsprobe.simulate.cudnn.convolutions import ITEM_BYTES, Convolution, Direction

_CHANNELS_LAST = (torch.channels_last, torch.channels_last_3d)


def convolution(args: tuple[Any, ...], out: Any) -> Effects:
    """`cudnn_convolution`: the output, dense copies of what is laid out otherwise, the workspace.

    Source: ATen/native/Convolution.cpp and cudnn/ConvShared.cpp.
    """
    x, weight, _, stride, padding, dilation, transposed, _, groups = args
    layout = _convolution_layout(x, weight)
    yield out
    yield Inside(
        sizes=copies((x, weight), layout),
        convolution=_described(
            Direction.DATA_GRADIENT if transposed else Direction.FORWARD,
            out if transposed else x,
            weight,
            settings=(stride, padding, dilation, groups),
            layout=layout,
            is_transposed=transposed,
        ),
    )


def convolution_backward(args: tuple[Any, ...], out: Any) -> Effects:
    """`cudnn_convolution_backward`: the input's gradient, then the weight's, then the bias's.

    Copies of the output's gradient and, where the weight has one, of the input are made first and
    live until the end (`convolution_backward` in Convolution.cpp, cudnn/ConvShared.cpp); that of
    the weight does not.
    """
    grad, x, weight, _, stride, padding, dilation, transposed, _, groups, _ = args
    layout = _convolution_layout(x, weight)
    grad_x, grad_weight, grad_bias = out
    settings = (stride, padding, dilation, groups)
    image = grad if transposed else x
    yield Held(sizes=copies((grad,) if grad_weight is None else (x, grad), layout))
    if grad_x is not None:
        direction = Direction.FORWARD if transposed else Direction.DATA_GRADIENT
        yield grad_x
        yield Inside(
            sizes=copies((weight,), layout),
            convolution=_described(
                direction,
                image,
                weight,
                settings=settings,
                layout=layout,
                is_transposed=transposed,
            ),
        )
    if grad_weight is not None:
        yield grad_weight
        yield Inside(
            convolution=_described(
                Direction.WEIGHT_GRADIENT,
                image,
                weight,
                settings=settings,
                layout=layout,
                is_transposed=transposed,
            ),
        )
    yield Held(sizes=())
    if grad_bias is not None:
        yield grad_bias
        summed = reduction(grad, [dim for dim in range(grad.dim()) if dim != 1])
        if summed is not None:
            yield Inside(reduction=summed)


def _described(
    direction: Direction,
    image: torch.Tensor,
    weight: torch.Tensor,
    *,
    settings: tuple[Any, Any, Any, int],
    layout: torch.memory_format,
    is_transposed: bool,
) -> Convolution | None:
    """The convolution as cuDNN is asked for it; None for double precision."""
    dtype = str(weight.dtype).removeprefix("torch.")
    if dtype not in ITEM_BYTES:
        return None
    stride, padding, dilation, groups = settings
    return Convolution(
        direction=direction,
        dtype=dtype,
        channels_last=layout is not torch.contiguous_format,
        input_size=tuple(image.shape),
        weight_size=tuple(weight.shape),
        padding=tuple(padding),
        stride=tuple(stride),
        dilation=tuple(dilation),
        groups=groups,
        is_transposed=is_transposed,
    )


def _convolution_layout(x: torch.Tensor, weight: torch.Tensor) -> torch.memory_format:
    """`cudnn_conv_suggest_memory_format` (ATen/native/ConvUtils.h): channels last if either is."""
    layouts = {suggest_memory_format(x), suggest_memory_format(weight)}
    return next((each for each in _CHANNELS_LAST if each in layouts), torch.contiguous_format)
