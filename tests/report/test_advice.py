"""Advice for variants without a recommendation names options that bsprobe accepts."""

from dataclasses import replace

import pytest

from bsprobe.records.runs import Boundary, StopReason, VariantResult
from bsprobe.records.units import Resolution
from bsprobe.records.workload import OwnParts
from bsprobe.report.run import advice
from tests.support.builders import VARIANT


def result(stop: StopReason, size: tuple[int, int], detail: str = "") -> VariantResult:
    variant = replace(VARIANT, resolution=Resolution(height=size[0], width=size[1]))
    boundary = Boundary(stop=stop, largest=None, first_failure=1, detail=detail)
    return VariantResult(variant=variant, boundary=boundary, recommendation=None)


@pytest.mark.parametrize(
    ("size", "named"), [((64, 128), "--resolution 32x64"), ((32, 128), None), ((63, 64), None)]
)
def test_where_nothing_fits_no_size_is_named_that_is_refused(
    size: tuple[int, int], named: str | None
) -> None:
    said = advice.without_recommendation(result(StopReason.NOTHING_FITS, size))
    assert ("--resolution" in said, named is None or named in said) == (named is not None, True)
    assert "--checkpointing on" in said


@pytest.mark.parametrize(
    ("size", "named"),
    [
        ((513, 513), ["--resolution 512x512", "--resolution 544x544"]),
        ((512, 1030), ["--resolution 512x1024", "--resolution 512x1056"]),
        ((40, 32768), ["--resolution 32x32768", "--resolution 64x32768"]),
        ((512, 1024), []),
    ],
)
def test_sizes_that_do_not_halve_come_with_the_nearest_that_do(
    size: tuple[int, int], named: list[str]
) -> None:
    detail = "RuntimeError: Sizes of tensors must match except in dimension 1. (unet.py, line 12)"
    said = advice.without_recommendation(result(StopReason.FAILED, size, detail))
    assert [option for option in named if option in said] == named
    assert ("--resolution" in said, "unet.py, line 12" in said) == (bool(named), True)


def test_other_failures_advise_no_size() -> None:
    said = advice.without_recommendation(result(StopReason.FAILED, (513, 513), "ValueError: no"))
    assert "--resolution" not in said


def test_images_of_other_channels_are_advised_by_the_option_that_gives_them() -> None:
    variant = replace(VARIANT, channels=4)
    assert advice.ways_to_fit(variant)[-1].startswith("--input 4x")


def test_volumes_are_advised_with_all_their_sides() -> None:
    volume = Resolution(height=97, width=96, slices=90)
    variant = replace(VARIANT, resolution=volume, channels=1)
    assert [each.sides for each in advice.nearest_multiples(volume)] == [
        (64, 96, 96),
        (96, 128, 96),
    ]
    assert advice.ways_to_fit(variant)[-1] == "--input 1x45x48x48"


def test_a_user_supplied_loss_that_fails_comes_with_the_labels_it_gets() -> None:
    failed = result(StopReason.FAILED, (64, 64), "ValueError: the number of dimensions")
    own = replace(failed.variant, own=OwnParts(loss="m:loss"))

    assert "labels" not in advice.without_recommendation(failed)
    assert "m:loss gets the outputs and int64 labels (N, H, W)" in (
        advice.without_recommendation(replace(failed, variant=own))
    )
