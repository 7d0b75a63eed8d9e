"""Description of convolutions, and PyTorch's choice of a backend for them.

Source of the choice: `use_cudnn`, `use_cudnn_depthwise`, `is_depthwise` and `_select_conv_backend`
in aten/src/ATen/native/Convolution.cpp, as of PyTorch 2.10 and the months after it.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

from bsprobe.records.units import MIB

ITEM_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of an element, by the dtypes that training steps use in convolutions."""
MAX_SPATIAL: Final = 3

FIRST_BFLOAT16_CAPABILITY: Final = (8, 0)
"""First capability with bfloat16 in cuDNN (`supportsBFloat16ConvolutionWithCuDNNv8` in
aten/src/ATen/cuda/detail/CUDAHooks.cpp); older cards run it in PyTorch's own kernels."""
INT32_ELEMENTS: Final = 2**31
"""`canUse32BitIndexMath` allows fewer elements than this."""

PARTIAL_SUMS: Final = 8
SMALL_SPLITS_BYTES: Final = 16 * MIB
"""Constants of `upper_bound_bytes`, chosen so that few workspaces of cuDNN 9.26 exceed it."""


class Direction(StrEnum):
    """The three kernels of a convolution in a training step."""

    FORWARD = "forward"
    DATA_GRADIENT = "data gradient"
    WEIGHT_GRADIENT = "weight gradient"


class Backend(StrEnum):
    """The library that runs a convolution on a CUDA device."""

    CUDNN = "cuDNN"
    DEPTHWISE = "PyTorch's depthwise kernels"
    """CudaDepthwise2d and 3d, which take no temporary memory."""
    COLUMNS = "PyTorch's kernels by columns"
    """Slow2d, SlowDilated2d and 3d, SlowTranspose2d and 3d, which unfold one image into columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """One convolution in one direction, with the sizes that cuDNN gets.

    PyTorch runs a transposed convolution as the data gradient of an ordinary one
    (`cudnn_convolution_transpose` in aten/src/ATen/native/cudnn/ConvShared.cpp). Describe that
    ordinary convolution: `input_size` is the transposed convolution's *output*, `weight_size` its
    unchanged weight, `is_transposed` true. The forward pass is then `DATA_GRADIENT`, the gradient
    of the input `FORWARD`, the gradient of the weight `WEIGHT_GRADIENT`. Output padding is part of
    `input_size`.

    A one-dimensional convolution runs as a two-dimensional one of height 1, as in PyTorch
    (`view1d_as_2d`).

    Raises:
        ValueError: The sizes do not fit together, or the dtype is not one of `ITEM_BYTES`.
    """

    direction: Direction
    dtype: str
    """Dtype of input, weight and output: "float32", "float16" or "bfloat16"."""
    channels_last: bool
    """True if input or weight is channels last (`cudnn_conv_suggest_memory_format`)."""
    input_size: tuple[int, ...]
    """(batch, channels, *spatial)."""
    weight_size: tuple[int, ...]
    """(output channels, channels / groups, *kernel)."""
    padding: tuple[int, ...]
    """Padding on both sides of each spatial dimension."""
    stride: tuple[int, ...]
    """Stride of each spatial dimension."""
    dilation: tuple[int, ...]
    """Dilation of each spatial dimension."""
    groups: int
    is_transposed: bool = False

    def __post_init__(self) -> None:
        spatial = len(self.input_size) - 2
        lengths = (len(self.padding), len(self.stride), len(self.dilation))
        if not 1 <= spatial <= MAX_SPATIAL or len(self.weight_size) != spatial + 2:
            raise ValueError(f"{self}: the sizes are not those of a 1-d, 2-d or 3-d convolution")
        if lengths != (spatial,) * 3:
            raise ValueError(f"{self}: padding, stride and dilation need {spatial} values each")
        if self.dtype not in ITEM_BYTES:
            raise ValueError(f"{self}: dtype must be one of {', '.join(ITEM_BYTES)}")
        positive = (*self.input_size, *self.weight_size, *self.stride, *self.dilation, self.groups)
        if min(positive) < 1 or min(self.padding) < 0:
            raise ValueError(f"{self}: sizes, stride, dilation and groups must be at least 1")
        if (
            self.input_size[1] != self.weight_size[1] * self.groups
            or self.weight_size[0] % self.groups
        ):
            raise ValueError(f"{self}: the channels do not match the groups")
        if min(self.output_size) < 1:
            raise ValueError(f"{self}: the kernel is larger than the padded input")

    @property
    def output_size(self) -> tuple[int, ...]:
        """(batch, output channels, *spatial)."""
        spatial = (
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, padding, stride, dilation in zip(
                self.input_size[2:],
                self.weight_size[2:],
                self.padding,
                self.stride,
                self.dilation,
                strict=True,
            )
        )
        return (self.input_size[0], self.weight_size[0], *spatial)

    @property
    def is_dilated_forward(self) -> bool:
        """True for the forward pass of a dilated convolution."""
        return self.direction is Direction.FORWARD and max(self.dilation) > 1

    def widened(self) -> "Convolution":
        """The convolution that PyTorch runs: a one-dimensional one gets a height of 1."""
        if len(self.padding) > 1:
            return self
        return Convolution(
            direction=self.direction,
            dtype=self.dtype,
            channels_last=self.channels_last,
            input_size=(*self.input_size[:2], 1, self.input_size[2]),
            weight_size=(*self.weight_size[:2], 1, self.weight_size[2]),
            padding=(0, *self.padding),
            stride=(1, *self.stride),
            dilation=(1, *self.dilation),
            groups=self.groups,
            is_transposed=self.is_transposed,
        )


def strides(size: tuple[int, ...], *, channels_last: bool) -> tuple[int, ...]:
    """Strides of a dense tensor, with `fixSizeOneDimStride` applied to dimensions of size 1."""
    order = [*range(len(size) - 1, 1, -1)]  # from the fastest dimension to the slowest
    order = [1, *order, 0] if channels_last else [*order, 1, 0]
    found = {order[0]: 1}
    for faster, slower in pairwise(order):
        found[slower] = found[faster] * size[faster]
    return tuple(found[dimension] for dimension in range(len(size)))


def backend_of(
    convolution: Convolution, *, capability: tuple[int, int], cudnn_version: int
) -> Backend:
    """The backend that PyTorch chooses if `torch.backends.cudnn.enabled` is true.

    Older versions differ for deterministic dilated convolutions that are not channels last: they do
    not run on cuDNN.

    Args:
        convolution: The convolution.
        capability: The card's compute capability.
        cudnn_version: cuDNN's version number: 91002 is 9.10.2.
    """
    wide = convolution.widened()
    if _is_depthwise(wide):
        uses_cudnn = _depthwise_uses_cudnn(wide, cudnn_version)
        return Backend.CUDNN if uses_cudnn else Backend.DEPTHWISE
    if wide.dtype == "bfloat16" and capability < FIRST_BFLOAT16_CAPABILITY:
        return Backend.COLUMNS
    is_half_pointwise_3d = (
        not wide.channels_last and wide.dtype != "float32" and wide.weight_size[2:] == (1, 1, 1)
    )
    if is_half_pointwise_3d and 90800 <= cudnn_version < 91500:  # noqa: PLR2004 - as in use_cudnn
        return Backend.COLUMNS
    return Backend.CUDNN


def _is_depthwise(convolution: Convolution) -> bool:
    channels = convolution.input_size[1]
    return (
        not convolution.is_transposed
        and convolution.groups == channels > 1
        and convolution.weight_size[0] % channels == 0
    )


def _depthwise_uses_cudnn(convolution: Convolution, cudnn_version: int) -> bool:
    """`use_cudnn_depthwise`, including `check_cudnn_depthwise_workload_with_filter`."""
    if _span(convolution) >= INT32_ELEMENTS:
        return not (convolution.channels_last and 91000 < cudnn_version < 91500)  # noqa: PLR2004
    if convolution.channels_last:
        return True
    if (
        convolution.dtype != "float16"
        or len(convolution.padding) != 2  # noqa: PLR2004 - two spatial dimensions
        or set(convolution.dilation) != {1}
        or convolution.input_size[1] < 32  # noqa: PLR2004 - as there
    ):
        return False
    is_flat = convolution.input_size[2] == 1
    if convolution.stride[0] != convolution.stride[1] and not is_flat:
        return False
    return _is_worth_cudnn(convolution, is_flat=is_flat)


def _is_worth_cudnn(convolution: Convolution, *, is_flat: bool) -> bool:
    batch, channels, _, width = convolution.input_size
    height, kernel = convolution.weight_size[2:]
    stride = convolution.stride[1]
    if is_flat and stride == 1:
        return True
    if height != kernel or kernel not in (1, 3, 5) or width < 7:  # noqa: PLR2004 - as there
        return False
    if stride != 2:  # noqa: PLR2004 - as there
        return stride == 1
    if kernel == 1:
        return width <= 28 if batch == 1 else batch <= 16 and channels >= 128 and width <= 7  # noqa: PLR2004
    return batch == 1 or channels >= 512 or (channels >= 256 and width >= 28)  # noqa: PLR2004


def _span(convolution: Convolution) -> int:
    return max(math.prod(convolution.input_size), math.prod(convolution.weight_size))


def columns_bytes(convolution: Convolution) -> int:
    """Bytes of the column buffer of PyTorch's own kernels, for one image and one group.

    Rows are channels times kernel elements, columns are output positions. The slices that grouped
    convolutions copy are not included.

    Source: ConvolutionMM2d.cu, NaiveDilatedConvolution.cu and NaiveConvolutionTranspose2d.cu in
    aten/src/ATen/native/cuda.
    """
    positions = math.prod(convolution.output_size[2:])
    return math.prod(convolution.weight_size[1:]) * positions * ITEM_BYTES[convolution.dtype]


def upper_bound_bytes(convolution: Convolution) -> int:
    """Estimated upper bound of the workspace of cuDNN's first plan, if cuDNN is unavailable.

    cuDNN's kernels need channels last and multiples of eight channels (tensor cores read 16 bytes
    at once), so a workspace can hold a converted input, weight and output. A split reduction keeps
    partial sums in fp32, mostly of the weight's size. The bound is therefore one copy of each
    tensor with the channels of each group rounded up to eight, eight fp32 copies of the weight, and
    16 MiB for small convolutions with many splits. cuDNN guarantees no such bound;
    `benchmarks/workspaces.py bound` prints how often and by how much it is wrong.
    """
    wide = convolution.widened()
    outputs, inputs = wide.weight_size[0] // wide.groups, wide.weight_size[1]
    rows, columns = _in_eights(outputs) * wide.groups, _in_eights(inputs)
    elements = (
        wide.input_size[0] * columns * wide.groups * math.prod(wide.input_size[2:])
        + wide.input_size[0] * rows * math.prod(wide.output_size[2:])
        + rows * columns * math.prod(wide.weight_size[2:])
    )
    partial_sums = PARTIAL_SUMS * math.prod(wide.weight_size) * ITEM_BYTES["float32"]
    return elements * ITEM_BYTES[wide.dtype] + partial_sums + SMALL_SPLITS_BYTES


def _in_eights(channels: int) -> int:
    return -(-channels // 8) * 8


def version_text(version: int) -> str:
    """Format cuDNN's version number: 91002 is "9.10.2"."""
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"
