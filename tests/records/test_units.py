"""Tests of the formatting and parsing of units."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsprobe.records.errors import UsageError
from bsprobe.records.units import (
    Resolution,
    format_bytes,
    format_rate,
    format_seconds,
    parse_bytes,
    parse_resolution,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (2048, "2 KiB"),
        (1500 * 2**20, "1.46 GiB"),
        (812 * 2**20, "812 MiB"),
        (int(22.4 * 2**30), "22.4 GiB"),
        (-(2**30), "-1.00 GiB"),
    ],
)
def test_bytes_are_formatted_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("11GiB", 11 * 2**30),
        ("1500 MiB", 1500 * 2**20),
        ("1.5gib", 3 * 2**29),
        ("24GB", 24 * 10**9),
        ("4096", 4096),
    ],
)
def test_amounts_of_memory_are_parsed(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text",
    [
        *("", "GiB", "-1GiB", "0", "0.0GiB", "1e9", "12 apples", "1..5GiB"),
        *(str(2**50 + 1), "99999999999GiB", "9" * 400, "9" * 5000),
    ],
)
def test_an_invalid_amount_of_memory_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_bytes(text)
    assert refused.value.hint is not None


@given(st.integers(min_value=1, max_value=2**50))
def test_a_plain_number_of_bytes_survives_parsing(count: int) -> None:
    assert parse_bytes(str(count)) == count


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.035, "35 ms"), (4.23, "4.2 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_seconds_are_formatted_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("text", "height", "width"),
    [
        ("512x1024", 512, 1024),
        ("cityscapes", 1024, 2048),
        ("cityscapes-half", 512, 1024),
        (" 65 X 129 ", 65, 129),
    ],
)
def test_resolutions_are_height_first(text: str, height: int, width: int) -> None:
    assert parse_resolution(text) == Resolution(height=height, width=width)


def test_a_resolution_names_its_sides() -> None:
    portrait = Resolution(height=1024, width=512)
    assert str(portrait) == "1024x512"
    assert portrait.describe() == "1024 high x 512 wide"
    assert portrait.is_portrait
    assert not Resolution(height=512, width=512).is_portrait


@pytest.mark.parametrize(
    "text", ["", "512", "512x", "x512", "-512x1024", "0x0", "8x8", "31x4096", "99999x99999", "axb"]
)
def test_an_invalid_resolution_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_resolution(text)
    assert refused.value.hint is not None


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0.01234, "0.0123"), (9.518, "9.52"), (999.4, "999"), (999.5, "1,000"), (12345.6, "12,300")],
)
def test_a_rate_has_three_digits_and_no_exponent(rate: float, text: str) -> None:
    assert format_rate(rate) == text
