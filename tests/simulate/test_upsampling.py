"""Limits and copies of upsampling, and limits of other kernels, by layout and PyTorch version."""

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch.torch_version import TorchVersion

from bsprobe.records.units import Resolution
from bsprobe.simulate.cuda import Inside, effects
from bsprobe.simulate.cuda.limits import aten, counted_elements
from bsprobe.simulate.timeline import Affine, matched
from tests.support.tiny_networks import VARIANT
from tests.support.traced_networks import PlainNet, tracer_of

LAST, FLAT = torch.channels_last, torch.contiguous_format
VERSIONS = ("2.6.0", "2.7.1", "2.9.1", "2.10.0", "2.11.0", "2.13.0", "2.14.0", "2.15.0")
ALWAYS = len(VERSIONS)
SMALL, LARGE = 4, 8
"""Height and width of input and output."""


class Case(NamedTuple):
    """A kernel, and the number of versions, from the oldest on, in which it has a limit."""

    operator: str
    channels: int
    layout: torch.memory_format
    limited_in: int
    counted: int = 0
    """Side of the largest counted tensor."""


BILINEAR = VERSIONS.index("2.14.0")
CASES = [
    Case("upsample_bilinear2d", 16, LAST, BILINEAR, LARGE),
    Case("upsample_bilinear2d", 15, LAST, 0),
    Case("upsample_bilinear2d", 16, FLAT, 0),
    Case("upsample_bilinear2d_backward", 16, LAST, BILINEAR, LARGE),
    Case("upsample_bilinear2d_backward", 3, LAST, BILINEAR, LARGE),
    Case("upsample_bilinear2d_backward", 16, FLAT, BILINEAR, LARGE),
    Case("_upsample_bilinear2d_aa", 16, LAST, 0),
    Case("_upsample_bilinear2d_aa_backward", 16, LAST, 0),
    Case("upsample_bicubic2d", 16, LAST, 0),
    Case("upsample_bicubic2d_backward", 16, LAST, 0),
    *(
        case
        for name in ("upsample_nearest2d", "_upsample_nearest_exact2d")
        for case in (
            Case(name, 16, LAST, 0),
            Case(name, 16, FLAT, 0),
            Case(f"{name}_backward", 4, LAST, ALWAYS, LARGE),
            Case(f"{name}_backward", 3, LAST, 0),
            Case(f"{name}_backward", 16, FLAT, 0),
        )
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operator} {case.channels}")
def test_upsampling_counts_in_32_bits_in_some_layouts_of_some_versions(case: Case) -> None:
    is_backward = case.operator.endswith("_backward")
    x, out = (
        torch.empty(2, case.channels, side, side).contiguous(memory_format=case.layout)
        for side in ((LARGE, SMALL) if is_backward else (SMALL, LARGE))
    )
    found = [counted(case.operator, (x,), out, version) for version in VERSIONS]

    elements = 2 * case.channels * case.counted**2
    assert found == [elements] * case.limited_in + [None] * (ALWAYS - case.limited_in)


def counted(
    operator: str, args: tuple[Any, ...], out: torch.Tensor, version: str = VERSIONS[-1]
) -> int | None:
    """Number of elements that an operator counts in 32 bits."""
    return counted_elements(getattr(aten, operator).default, args, out, TorchVersion(version))


@pytest.mark.parametrize(
    ("operator", "dimensions", "limited_in"),
    [
        ("upsample_nearest1d", 1, ALWAYS),
        ("upsample_nearest1d_backward", 1, ALWAYS),
        ("upsample_linear1d", 1, 0),
        ("upsample_linear1d_backward", 1, 0),
        ("upsample_nearest3d", 3, VERSIONS.index("2.7.1")),
        ("upsample_nearest3d_backward", 3, VERSIONS.index("2.7.1")),
        ("upsample_trilinear3d", 3, 0),
        ("upsample_trilinear3d_backward", 3, 0),
    ],
)
def test_upsampling_in_one_and_three_dimensions_counts_in_32_bits_in_some_versions(
    operator: str, dimensions: int, limited_in: int
) -> None:
    x, out = (torch.empty(2, 3, *[side] * dimensions) for side in (SMALL, LARGE))
    if operator.endswith("_backward"):
        x, out = out, x
    found = [counted(operator, (x,), out, version) for version in VERSIONS]

    elements = 2 * 3 * LARGE**dimensions
    assert found == [elements] * limited_in + [None] * (ALWAYS - limited_in)


def test_upsampling_to_the_same_size_has_no_limit() -> None:
    x = torch.empty(2, 16, SMALL, SMALL).contiguous(memory_format=LAST)

    assert counted("upsample_bilinear2d", (x,), x, "2.6.0") is None
    assert counted("upsample_nearest2d_backward", (x,), x, "2.6.0") is None


def test_pooling_and_padding_count_their_input_or_output_in_32_bits() -> None:
    large, small = torch.empty(2, 3, LARGE, LARGE), torch.empty(2, 3, SMALL, SMALL)
    last = large.contiguous(memory_format=LAST)
    of_large, of_small = large.numel(), small.numel()

    assert counted("avg_pool2d", (large,), small) == of_small
    pooled: Any = (small, small.long())
    assert counted("max_pool2d_with_indices", (large,), pooled, "2.9.1") == of_small
    assert counted("max_pool2d_with_indices", (large,), pooled, "2.10.0") is None
    assert counted("_adaptive_avg_pool2d", (last, (4, 4)), small) == of_large
    assert counted("_adaptive_avg_pool2d", (large, (4, 4)), small) is None
    assert counted("_adaptive_avg_pool2d_backward", (small, last), last) == of_large
    assert counted("_adaptive_avg_pool2d_backward", (small, large), large) is None
    assert counted("reflection_pad2d", (small,), large) == of_small
    assert counted("reflection_pad2d_backward", (large, small), small, "2.10.0") == of_large
    assert counted("reflection_pad2d_backward", (large, small), small, "2.11.0") is None
    assert counted("replication_pad2d_backward", (large, small), small) == of_large


def test_a_limit_follows_the_outputs_of_its_kernel() -> None:
    limited = aten.avg_pool2d.default
    x, out = torch.empty(2, 3, LARGE, LARGE), torch.empty(2, 3, SMALL, SMALL)

    assert list(effects(limited, (x,), out)) == [out, Inside(elements=out.numel())]


def upsampling_copies(
    operator: str, channels: int, x_layout: torch.memory_format, out_layout: torch.memory_format
) -> tuple[int, ...]:
    """Sizes of the copies in an upsampling kernel, for layouts of input and output."""
    x = torch.empty(2, channels, 4, 4).contiguous(memory_format=x_layout)
    out = torch.empty(2, channels, 2, 2).contiguous(memory_format=out_layout)
    inside = [
        each
        for each in effects(getattr(aten, operator).default, (x,), out)
        if isinstance(each, Inside)
    ]
    return sum((each.sizes for each in inside), ())


X, OUT = 4 * 2 * 16, 4 * 2 * 4
"""Bytes of one channel of input and output."""
AS_THEY_RUN = [(), (3 * OUT, 3 * X), (4 * X,), (4 * OUT,), ()]
CONTIGUOUS = [(4 * OUT, 4 * X), (3 * OUT, 3 * X), (4 * X,), (4 * OUT,), ()]
CONTIGUOUS_INPUT = [(4 * X,), (3 * X,), (4 * X,), (), ()]


@pytest.mark.parametrize(
    ("operator", "copies"),
    [
        ("upsample_bilinear2d", [()] * 5),
        ("upsample_bilinear2d_backward", AS_THEY_RUN),
        ("upsample_nearest2d", AS_THEY_RUN),
        ("upsample_nearest2d_backward", AS_THEY_RUN),
        ("_upsample_nearest_exact2d", AS_THEY_RUN),
        ("_upsample_nearest_exact2d_backward", AS_THEY_RUN),
        ("upsample_bicubic2d", [()] * 5),
        ("upsample_bicubic2d_backward", CONTIGUOUS_INPUT),
        ("_upsample_bilinear2d_aa", CONTIGUOUS),
        ("_upsample_bilinear2d_aa_backward", CONTIGUOUS_INPUT),
    ],
)
def test_upsampling_reads_channels_last_without_copies_from_four_channels_on_or_never(
    operator: str, copies: list[tuple[int, ...]]
) -> None:
    layouts = ((4, LAST, LAST), (3, LAST, LAST), (4, LAST, FLAT), (4, FLAT, LAST), (4, FLAT, FLAT))

    assert [upsampling_copies(operator, *layout) for layout in layouts] == copies


def test_upsampling_to_the_same_size_makes_no_copies_inside() -> None:
    x = torch.empty(2, 3, 4, 4).contiguous(memory_format=LAST)

    assert list(effects(aten.upsample_nearest2d.default, (x,), x)) == [x]


def test_the_upsampling_of_contiguous_logits_is_limited_before_2_14_and_only_backward() -> None:
    size = Resolution(height=32, width=48)
    tracer = tracer_of(PlainNet, replace(VARIANT, resolution=size))
    timeline = matched(tracer.record(2), tracer.record(3))
    counts = [each.elements for each in timeline.scratches if each.elements is not None]

    logits = Affine(fixed=0, per_image=VARIANT.logits * size.height * size.width)
    two_steps = [logits, logits]
    assert counts == (two_steps if torch.__version__ < "2.14" else [])
