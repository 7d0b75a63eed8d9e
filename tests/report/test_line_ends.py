"""Names at the ends of lines do not overlap."""

import pytest
from matplotlib.figure import Figure

from bsprobe.report.line_ends import LineEnd, label_ends


def placed(*ends: tuple[float, float], near: float) -> list[tuple[float, float]]:
    """The heights of labels on axes that are 10 high."""
    axes = Figure().add_subplot()
    axes.set_ylim(0, 10)
    lines = [LineEnd(place=x, value=y, name="a line", colour="black") for x, y in ends]
    label_ends(axes, lines, gap=0.1, near=near)
    return [text.xy for text in axes.texts]  # type: ignore[attr-defined] # annotations


def test_ends_that_lie_apart_have_their_names_beside_them() -> None:
    assert placed((1, 5), (1, 2), near=9) == [(1, 2), (1, 5)]


def test_names_that_would_meet_are_pushed_upwards() -> None:
    found = placed((1, 5), (1, 5.2), (1, 5.1), near=9)
    assert [y for _, y in found] == pytest.approx([5, 6, 7])


def test_ends_that_are_far_from_each_other_along_the_axis_do_not_meet() -> None:
    assert placed((1, 5), (20, 5), near=9) == [(1, 5), (20, 5)]
