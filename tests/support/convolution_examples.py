"""Convolutions for tests: two fixed ones, and a strategy for all kinds."""

from dataclasses import replace

from hypothesis import strategies as st

from bsprobe.simulate.cudnn.convolutions import Convolution, Direction

PLAIN = Convolution(
    direction=Direction.FORWARD,
    dtype="float32",
    channels_last=False,
    input_size=(2, 64, 33, 65),
    weight_size=(128, 64, 3, 3),
    padding=(1, 1),
    stride=(2, 2),
    dilation=(1, 1),
    groups=1,
)
DEPTHWISE = replace(PLAIN, weight_size=(64, 1, 3, 3), groups=64)


@st.composite
def convolutions(draw: st.DrawFn, largest: int = 40) -> Convolution:
    spatial = draw(st.integers(1, 3))
    small = st.integers(1, 4)

    def each(values: st.SearchStrategy[int]) -> tuple[int, ...]:
        return tuple(draw(values) for _ in range(spatial))

    kernel, dilation, stride = (each(small) for _ in range(3))
    padding = each(st.integers(0, 9))
    least = tuple(
        max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)
    )
    size = tuple(draw(st.integers(low, low + largest)) for low in least)
    groups = draw(st.sampled_from([1, 1, 2, 8]))
    inputs, outputs = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    return Convolution(
        direction=draw(st.sampled_from(Direction)),
        dtype=draw(st.sampled_from(["float32", "float16", "bfloat16"])),
        channels_last=draw(st.booleans()),
        input_size=(draw(st.integers(1, largest)), inputs * groups, *size),
        weight_size=(outputs * groups, inputs, *kernel),
        padding=padding,
        stride=stride,
        dilation=dilation,
        groups=groups,
    )
