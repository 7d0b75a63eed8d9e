"""The start of a search from a prediction, and its correction by the first trial."""

import pytest

from bsprobe.analysis.expectation import Expected
from bsprobe.analysis.memory_line import Line
from bsprobe.records.runs import Prediction


@pytest.mark.parametrize(
    ("peaks", "line"),
    [
        # The far end if it is far from the half, else the near one; always with the half.
        (((1, 30), (5, 70), (6, 80), (12, 140)), Line(fixed_bytes=20.0, per_image_bytes=10.0)),
        (((1, 30), (3, 49), (6, 80), (7, 95)), Line(fixed_bytes=18.0, per_image_bytes=31 / 3)),
        (((5, 70), (6, 80), (7, 95)), None),
        (((1, 30), (12, 140)), None),
        ((), None),
    ],
)
def test_the_predicted_line_goes_through_the_half_and_what_lies_apart(
    peaks: tuple[tuple[int, int], ...], line: Line | None
) -> None:
    found = Expected.of(Prediction(largest=12, peaks=peaks))
    assert found == Expected(largest=12, line=line)


@pytest.mark.parametrize("largest", [None, 0])
def test_where_nothing_is_predicted_nothing_is_expected(largest: int | None) -> None:
    assert Expected.of(Prediction(largest=largest)) is None


@pytest.mark.parametrize(
    ("peak_bytes", "corrected"), [(80, 12), (None, 12), (100, 10), (60, 14), (84, 12), (86, 11)]
)
def test_the_first_peak_corrects_by_whole_images(peak_bytes: int | None, corrected: int) -> None:
    expected = Expected(largest=12, line=Line(fixed_bytes=20.0, per_image_bytes=10.0))
    assert (expected.half, expected.corrected(peak_bytes)) == (6, corrected)


@pytest.mark.parametrize("line", [None, Line(fixed_bytes=80.0, per_image_bytes=0.5)])
def test_without_a_line_that_rises_nothing_is_corrected(line: Line | None) -> None:
    assert Expected(largest=1, line=line).corrected(10**12) == 1
