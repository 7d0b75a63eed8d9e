"""Temporary memory of convolutions: copies in another layout, and cuDNN's workspace."""

from typing import Any

import torch
from torch._prims_common import suggest_memory_format

from bsprobe.simulate.cuda.effects import Effects, Inside, copies, while_held
from bsprobe.simulate.cuda.sums import reduction
from bsprobe.simulate.cudnn.convolutions import ITEM_BYTES, Convolution, Direction

_CHANNELS_LAST = (torch.channels_last, torch.channels_last_3d)


def convolution(args: tuple[Any, ...], out: Any) -> Effects:
    """`cudnn_convolution`: the output, copies of operands in another layout, the workspace.

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
    """`cudnn_convolution_backward`: the gradients of the input, the weight and the bias.

    Copies of the output's gradient and, if the weight has a gradient, of the input are made first
    and live until the end. A copy of the weight is freed after the input's gradient.

    Source: `convolution_backward` in ATen/native/Convolution.cpp, and cudnn/ConvShared.cpp.
    """
    grad, x, weight, *_ = args
    *_, grad_weight, grad_bias = out
    held = (grad,) if grad_weight is None else (x, grad)
    yield from while_held(copies(held, _convolution_layout(x, weight)), _gradients(args, out))
    if grad_bias is not None:
        yield grad_bias
        summed = reduction(grad, [dim for dim in range(grad.dim()) if dim != 1])
        if summed is not None:
            yield Inside(reduction=summed)


def _gradients(args: tuple[Any, ...], out: Any) -> Effects:
    """The gradients of input and weight, each with its workspace."""
    grad, x, weight, _, stride, padding, dilation, transposed, _, groups, _ = args
    layout = _convolution_layout(x, weight)
    to_input = Direction.FORWARD if transposed else Direction.DATA_GRADIENT
    grad_x, grad_weight, _ = out
    for gradient, direction, copied in (
        (grad_x, to_input, (weight,)),
        (grad_weight, Direction.WEIGHT_GRADIENT, ()),
    ):
        if gradient is None:
            continue
        yield gradient
        yield Inside(
            sizes=copies(copied, layout),
            convolution=_described(
                direction,
                grad if transposed else x,
                weight,
                settings=(stride, padding, dilation, groups),
                layout=layout,
                is_transposed=transposed,
            ),
        )


def _described(
    direction: Direction,
    image: torch.Tensor,
    weight: torch.Tensor,
    *,
    settings: tuple[Any, Any, Any, int],
    layout: torch.memory_format,
    is_transposed: bool,
) -> Convolution | None:
    """Describe the convolution for cuDNN; None for dtypes that are not in `ITEM_BYTES`."""
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
