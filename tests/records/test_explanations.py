"""Tests of the sums and the file of an explanation."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsprobe.records.errors import FileError
from bsprobe.records.explanations import (
    NO_MODULE,
    OUTSIDE,
    ROUNDING,
    Allocation,
    Explanation,
    Row,
    by_kind,
    by_module,
    by_operator,
)
from bsprobe.records.units import GIB, MIB
from bsprobe.storage.explanationfile import NAME, load_explanation, save_explanation
from tests.support.explanations import EXPLANATION, REPORT

VIEWS: tuple[Callable[[Explanation], list[Row]], ...] = (
    by_kind,
    by_operator,
    lambda found: by_module(found, 1),
    lambda found: by_module(found, 2),
    lambda found: by_module(found, 9),
)
NAMES = st.sampled_from(["", "a", "a.b", "a.b.c", "a.d", "b", "b.b"])
HOLDINGS = st.lists(
    st.builds(
        Allocation,
        module=NAMES,
        kind=st.sampled_from(["parameters", "temporaries"]),
        operator=st.sampled_from(["add", "convolution"]),
        phase=st.just("forward"),
        size_bytes=st.integers(1, 10**9),
        per_image_bytes=st.integers(0, 10**6),
    ),
    max_size=12,
)


def row(name: str, mib: int, per_image_mib: int = 0, depth: int = 0) -> Row:
    return Row(name=name, size_bytes=mib * MIB, per_image_bytes=per_image_mib * MIB, depth=depth)


def apart(mib: int) -> Row:
    return Row(name=ROUNDING, size_bytes=mib * MIB, per_image_bytes=None)


def test_the_kinds_are_listed_largest_first_and_the_remainders_last() -> None:
    assert by_kind(EXPLANATION) == [
        row("saved activations", 7168, 3584),
        row("parameters", 512),
        row("batch", 128, 64),
        row("workspace", 64),
        apart(8192 - 7872),
        row(OUTSIDE, 256),
    ]


def test_the_tree_of_modules_goes_down_to_a_depth() -> None:
    assert by_module(EXPLANATION, 2) == [
        row("layer2", 6208, 3072),
        row("layer2.0", 4160, 2048, depth=1),
        row("layer2.1", 2048, 1024, depth=1),
        row("layer1", 1536, 512),
        row("layer1.0", 1024, 512, depth=1),
        row("layer1", 512, depth=1),
        row(NO_MODULE, 128, 64),
        apart(320),
        row(OUTSIDE, 256),
    ]


def test_fragmentation_is_neither_fixed_nor_of_an_image() -> None:
    found = EXPLANATION
    assert found.per_image_bytes == 3648 * MIB
    assert found.fixed_bytes == (7872 + 256 - 2 * 3648) * MIB
    line = found.fixed_bytes + 2 * found.per_image_bytes
    assert found.peak_bytes == line + found.rounding_bytes
    more_fragmented = replace(found, peak_reserved_bytes=found.peak_reserved_bytes + GIB)
    assert more_fragmented.fixed_bytes == found.fixed_bytes


@given(HOLDINGS)
def test_every_view_adds_up_to_the_peak(allocations: list[Allocation]) -> None:
    reserved = sum(each.size_bytes for each in allocations) + 12345
    found = replace(EXPLANATION, allocations=tuple(allocations), peak_reserved_bytes=reserved)
    for view in VIEWS:
        rows = view(found)
        assert sum(each.size_bytes for each in rows if each.depth == 0) == found.peak_bytes
        assert sum(r.per_image_bytes or 0 for r in rows if r.depth == 0) == found.per_image_bytes


@given(HOLDINGS)
def test_the_branches_of_a_module_add_up_to_it(allocations: list[Allocation]) -> None:
    rows = by_module(replace(EXPLANATION, allocations=tuple(allocations)), 3)[:-2]
    for index, parent in enumerate(rows):
        below = []
        for each in rows[index + 1 :]:
            if each.depth <= parent.depth:
                break
            below.append(each)
        inside = [each.size_bytes for each in below if each.depth == parent.depth + 1]
        assert not inside or sum(inside) == parent.size_bytes


def test_an_explanation_survives_its_file(tmp_path: Path) -> None:
    save_explanation(REPORT, tmp_path)
    assert load_explanation(tmp_path) == REPORT


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is damaged"),
        ("[]", "version None"),
        ('{"schema_version": 3}', "version 3; this bsprobe reads 2"),
        ('{"schema_version": 2}', "is damaged"),
        ("[" * 100_000, "is damaged"),
    ],
    ids=["empty", "list", "later", "incomplete", "deep"],
)
def test_an_invalid_explanation_file_is_refused(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=complaint):
        load_explanation(tmp_path)


def test_a_folder_without_an_explanation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not exist"):
        load_explanation(tmp_path)
