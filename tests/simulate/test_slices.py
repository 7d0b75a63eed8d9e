"""Slices of convolutions on cards of compute capability 9.0, as an H100 and an H200 said."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from bsprobe.simulate.cudnn.convolutions import Convolution, Direction
from bsprobe.simulate.cudnn.plans import CudnnPlans, CudnnUnavailableError, described_card
from bsprobe.simulate.cudnn.slices import real_bytes

STAGE = Convolution(
    direction=Direction.WEIGHT_GRADIENT,
    dtype="float32",
    channels_last=True,
    input_size=(5, 256, 41, 41),
    weight_size=(256, 256, 3, 3),
    padding=(1, 1),
    stride=(1, 1),
    dilation=(1, 1),
    groups=1,
)
STAGE_PLAN = "eng68_k2=4_k13=0_k18=1_k25=0_k27=1_k28=2"
STAGE_BYTES = 3 * 4 * 256 * 256 * 9 + 591
"""Three slices in fp32, their counters and what aligns them."""


def convolution(
    direction: str,
    dtype: str,
    layout: str,
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
    **k: Any,
) -> Convolution:
    given = replace(STAGE, input_size=sizes[0], weight_size=sizes[1], **k)
    is_last = layout == "nhwc"
    return replace(given, direction=Direction(direction), dtype=dtype, channels_last=is_last)


STEM = ((2, 64, 129, 257), (64, 64, 3, 3))
NARROW = ((2, 128, 65, 129), (128, 128, 3, 3))
WIDE = ((2, 512, 65, 129), (512, 512, 3, 3))
DILATED: dict[str, Any] = {"padding": (4, 4), "dilation": (4, 4)}
POINT: dict[str, Any] = {"padding": (0, 0)}
FIVES = ((2, 64, 81, 81), (64, 64, 3, 3))
OUTWARD = ((2, 1024, 65, 129), (2048, 1024, 1, 1))


@pytest.mark.parametrize(
    ("name", "asked", "described", "real"),
    [
        (STAGE_PLAN, STAGE, 0, STAGE_BYTES),
        (
            "eng68_k2=5_k13=0_k18=1_k25=0_k27=1_k28=1",
            convolution("weight gradient", "float32", "nhwc", STEM),
            *(295107, 2065047),
        ),
        (
            "eng68_k2=5_k13=0_k18=1_k25=0_k27=1_k28=1",
            convolution("weight gradient", "float32", "nchw", STEM),
            *(34391251, 36161191),
        ),
        (
            "eng65_k2=5_k13=1_k18=1_k25=0_k27=1_k28=3",
            convolution("weight gradient", "float16", "nchw", STEM),
            *(17343187, 18965671),
        ),
        (
            "eng65_k2=3_k13=1_k18=1_k25=0_k27=1_k28=2",
            convolution("weight gradient", "float16", "nhwc", WIDE, **DILATED),
            *(131, 0),
        ),
        (
            "eng67_k2=0_k13=1_k18=0_k25=0_k27=1_k28=2",
            convolution("data gradient", "float16", "nhwc", WIDE, **DILATED),
            *(1179883, 131),
        ),
        (
            "eng67_k2=0_k13=0_k18=0_k25=0_k27=8_k28=1",
            convolution("forward", "float32", "nchw", OUTWARD, **POINT),
            *(206069907, 210264435),
        ),
        (
            "eng67_k2=3_k13=0_k18=0_k25=0_k27=1_k28=2",
            convolution("forward", "float32", "nchw", WIDE, **DILATED),
            *(78127251, 78127120),
        ),
        (
            "eng71_k2=0_k13=0_k18=0_k25=1_k27=1_k28=1",
            convolution("data gradient", "float32", "nchw", NARROW),
            *(17762451, 17762320),
        ),
        (
            "eng71_k2=1_k13=0_k18=0_k25=0_k27=5_k28=1",
            convolution("data gradient", "float32", "nhwc", FIVES),
            *(131, 0),
        ),
        (
            "eng62_k2=0_k13=1_k18=0_k25=1_k27=1_k28=2",
            convolution(
                "forward",
                "float16",
                "nhwc",
                ((2, 256, 65, 129), (256, 256, 3, 3)),
                padding=(2, 2),
                dilation=(2, 2),
            ),
            *(131, 0),
        ),
    ],
)
def test_workspaces_are_those_that_both_cards_named(
    name: str, asked: Convolution, described: int, real: int
) -> None:
    assert real_bytes(asked, name, described) == real


def test_a_unet_takes_what_an_h100_recorded() -> None:
    """A layer of 128 channels, of images 512 high and wide, whose last round is cut in fours."""
    asked = convolution("forward", "float32", "nchw", ((8, 128, 256, 256), (128, 128, 3, 3)))
    name = "eng67_k2=0_k13=0_k18=0_k25=0_k27=8_k28=1"
    assert real_bytes(asked, name, 537460883) == 541655411


@pytest.mark.parametrize(
    ("name", "changes", "described"),
    [
        ("eng49_k0=97_k2=5_k5=4_k14=4", {}, 131),
        ("eng62_k2=5_k17=132", {}, 131),
        ("eng68_k2=99_k13=0_k18=1_k25=0_k27=1_k28=2", {}, 0),
        ("eng68_k2=4_k13=0_k18=1_k25=0_k27=3_k28=7", {}, 0),
        (STAGE_PLAN, {"weight_size": (256, 128, 3, 3), "groups": 2}, 0),
        (STAGE_PLAN, {}, 4096),
        (STAGE_PLAN, {"channels_last": False}, 4095),
    ],
    ids=["engine", "knobs", "tile", "cluster", "groups", "rest", "rest of copies"],
)
def test_what_was_not_measured_stays_as_described(
    name: str, changes: dict[str, Any], described: int
) -> None:
    assert real_bytes(STAGE, STAGE_PLAN, 0) == STAGE_BYTES
    assert real_bytes(replace(STAGE, **changes), name, described) == described


@pytest.mark.parametrize(
    ("capability", "version", "expected"),
    [
        ((9, 0), 91900, STAGE_BYTES),
        ((9, 0), 91902, STAGE_BYTES),
        ((9, 0), 91002, 0),
        ((9, 0), 92000, 0),
        ((10, 0), 91900, 0),
        ((8, 0), 91900, 0),
    ],
)
def test_only_the_measured_cards_and_version_have_more_slices(
    capability: tuple[int, int], version: int, expected: int
) -> None:
    try:
        plans = CudnnPlans(described_card(capability)[1], allow_tf32=True, deterministic=False)
    except CudnnUnavailableError as error:
        pytest.skip(str(error))
    plans.version = version
    graph = SimpleNamespace(get_plan_name_at_index=lambda _index: STAGE_PLAN)
    assert plans._on_a_real_card(STAGE, graph, 0, 0) == expected
