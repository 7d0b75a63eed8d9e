"""Sizes and backends of convolutions, compared with PyTorch's."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bsprobe.simulate.cudnn.convolutions import (
    Backend,
    Convolution,
    backend_of,
    columns_bytes,
    strides,
    upper_bound_bytes,
)
from tests.support.convolution_examples import DEPTHWISE, PLAIN, convolutions

NEW_CUDNN = 92600
AMPERE = (8, 6)
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@settings(deadline=None)
@given(convolutions())
def test_the_output_has_pytorchs_size(convolution: Convolution) -> None:
    run = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)
    output = run[len(convolution.padding) - 1](
        torch.empty(convolution.input_size, device="meta"),
        torch.empty(convolution.weight_size, device="meta"),
        None,
        convolution.stride,
        convolution.padding,
        convolution.dilation,
        convolution.groups,
    )
    assert convolution.output_size == tuple(output.shape)


@settings(deadline=None)
@given(st.lists(st.integers(2, 5), min_size=4, max_size=5))
def test_strides_are_pytorchs_where_no_size_is_one(size: list[int]) -> None:
    tensor = torch.empty(size, device="meta")
    last = tensor.contiguous(memory_format=FORMATS[len(size)])
    assert strides(tuple(size), channels_last=False) == tensor.stride()
    assert strides(tuple(size), channels_last=True) == last.stride()


def test_strides_of_a_pointwise_weight_tell_the_layouts_apart() -> None:
    assert strides((8, 4, 1, 1), channels_last=False) == (4, 1, 1, 1)
    assert strides((8, 4, 1, 1), channels_last=True) == (4, 1, 4, 4)


def test_one_dimensional_convolutions_run_with_height_one() -> None:
    convolution = replace(
        PLAIN,
        input_size=(2, 64, 100),
        weight_size=(128, 64, 3),
        padding=(4,),
        stride=(2,),
        dilation=(3,),
    )
    assert convolution.widened() == replace(
        PLAIN,
        input_size=(2, 64, 1, 100),
        weight_size=(128, 64, 1, 3),
        padding=(0, 4),
        stride=(1, 2),
        dilation=(1, 3),
    )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"input_size": (2, 64)}, "not those of a 1-d, 2-d or 3-d"),
        ({"weight_size": (128, 64, 3)}, "not those of a 1-d, 2-d or 3-d"),
        ({"padding": (1,)}, "need 2 values each"),
        ({"dtype": "float64"}, "one of float32, float16, bfloat16"),
        ({"input_size": (0, 64, 33, 65)}, "must be at least 1"),
        ({"stride": (0, 1)}, "must be at least 1"),
        ({"padding": (-1, 0)}, "must be at least 1"),
        ({"groups": 0}, "must be at least 1"),
        ({"groups": 2}, "do not match the groups"),
        ({"groups": 3, "input_size": (2, 192, 33, 65)}, "do not match the groups"),
        ({"dilation": (40, 1)}, "larger than the padded input"),
    ],
)
def test_invalid_sizes_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(PLAIN, **changes)


POINTWISE_3D = replace(
    PLAIN,
    dtype="float16",
    input_size=(2, 64, 9, 9, 9),
    weight_size=(64, 64, 1, 1, 1),
    padding=(0, 0, 0),
    stride=(1, 1, 1),
    dilation=(1, 1, 1),
)
HUGE = replace(DEPTHWISE, input_size=(4000, 64, 999, 999))
HALF_DEPTHWISE = replace(DEPTHWISE, dtype="float16")


NOWADAYS = [
    (PLAIN, Backend.CUDNN),
    (replace(PLAIN, dilation=(12, 12)), Backend.CUDNN),
    (replace(PLAIN, dtype="bfloat16"), Backend.CUDNN),
    (POINTWISE_3D, Backend.CUDNN),
    (DEPTHWISE, Backend.DEPTHWISE),
    (replace(DEPTHWISE, dtype="bfloat16"), Backend.DEPTHWISE),
    (replace(DEPTHWISE, channels_last=True), Backend.CUDNN),
    (replace(DEPTHWISE, is_transposed=True), Backend.CUDNN),
    (HUGE, Backend.CUDNN),
    # PyTorch runs contiguous fp16 on cuDNN for the sizes for which it was measured to be faster.
    (replace(HALF_DEPTHWISE, stride=(1, 1)), Backend.CUDNN),
    (HALF_DEPTHWISE, Backend.DEPTHWISE),
    (replace(HALF_DEPTHWISE, input_size=(1, 64, 33, 65)), Backend.CUDNN),
    (replace(HALF_DEPTHWISE, stride=(1, 1), dilation=(2, 2)), Backend.DEPTHWISE),
]


@pytest.mark.parametrize(
    ("convolution", "capability", "version", "expected"),
    [
        *((each, AMPERE, NEW_CUDNN, expected) for each, expected in NOWADAYS),
        (replace(PLAIN, dtype="bfloat16"), (7, 5), NEW_CUDNN, Backend.COLUMNS),
        (replace(PLAIN, dtype="float16"), (7, 5), NEW_CUDNN, Backend.CUDNN),
        (POINTWISE_3D, AMPERE, 91002, Backend.COLUMNS),
        (replace(POINTWISE_3D, channels_last=True), AMPERE, 91002, Backend.CUDNN),
        (replace(HUGE, channels_last=True), AMPERE, 91002, Backend.DEPTHWISE),
    ],
)
def test_the_backend_of_a_convolution(
    convolution: Convolution, capability: tuple[int, int], version: int, expected: Backend
) -> None:
    assert backend_of(convolution, capability=capability, cudnn_version=version) is expected


PYTORCHS_NAMES = {
    "Cudnn": Backend.CUDNN,
    "CudnnTranspose": Backend.CUDNN,
    "CudaDepthwise2d": Backend.DEPTHWISE,
    "CudaDepthwise3d": Backend.DEPTHWISE,
}


@pytest.mark.skipif(torch.backends.cudnn.version() is None, reason="PyTorch without cuDNN")
@pytest.mark.parametrize(
    "convolution",
    [
        PLAIN,
        replace(PLAIN, dtype="float16"),
        replace(PLAIN, channels_last=True, dilation=(4, 4)),
        POINTWISE_3D,
        DEPTHWISE,
        replace(DEPTHWISE, channels_last=True),
        replace(HALF_DEPTHWISE, input_size=(2, 16, 33, 65), weight_size=(32, 1, 3, 3), groups=16),
        replace(HALF_DEPTHWISE, channels_last=True),
        HUGE,
        replace(DEPTHWISE, weight_size=(96, 2, 3, 3), groups=32),
    ],
)
def test_pytorch_chooses_the_same_backend(convolution: Convolution) -> None:
    dtype = getattr(torch, convolution.dtype)
    layout = FORMATS[len(convolution.input_size)] if convolution.channels_last else None
    with FakeTensorMode(), torch.device("cuda"):
        image = torch.empty(convolution.input_size, dtype=dtype)
        chosen = torch._C._select_conv_backend(
            image.contiguous(memory_format=layout or torch.contiguous_format),
            torch.empty(convolution.weight_size, dtype=dtype),
            None,
            convolution.stride,
            convolution.padding,
            convolution.dilation,
            convolution.is_transposed,
            (0,) * len(convolution.padding),
            convolution.groups,
        )
    version = torch.backends.cudnn.version()
    assert version is not None
    expected = backend_of(convolution, capability=AMPERE, cudnn_version=version)
    assert PYTORCHS_NAMES[chosen.name] is expected


def test_columns_are_those_of_one_image_and_one_group() -> None:
    assert columns_bytes(PLAIN) == 64 * 9 * 17 * 33 * 4
    assert columns_bytes(replace(PLAIN, input_size=(9, 64, 33, 65))) == columns_bytes(PLAIN)
    grouped = replace(PLAIN, weight_size=(128, 32, 3, 3), groups=2, dtype="float16")
    assert columns_bytes(grouped) == 32 * 9 * 17 * 33 * 2


@settings(deadline=None)
@given(convolutions())
def test_the_bound_holds_a_copy_of_every_tensor(convolution: Convolution) -> None:
    sizes = (convolution.input_size, convolution.weight_size, convolution.output_size)
    item = {"float32": 4, "float16": 2, "bfloat16": 2}[convolution.dtype]
    assert upper_bound_bytes(convolution) > sum(map(math.prod, sizes)) * item
