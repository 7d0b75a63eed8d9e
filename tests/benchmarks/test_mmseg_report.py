"""Section of the report on mmsegmentation's zoo: errors and causes of misses."""

from typing import Any

import pytest

from benchmarks.mmseg_report import cause, error, section
from bsprobe.records.units import GIB, MIB

CONFIG = "configs/fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py"


def row(
    predicted: float | None,
    *,
    tensors: float | None = None,
    asked: float | None = None,
    estimated: float | None = None,
    newer: float | None = None,
    **rest: Any,
) -> dict[str, Any]:
    """Return a row measured at 10 GB; figures in GiB."""

    def size(gib: float | None) -> int | None:
        return None if gib is None else round(gib * GIB)

    return {
        "config": CONFIG,
        "measured_gb": 10.0,
        "known": False,
        "left_out": None if predicted else "it cannot be traced",
        "predicted_bytes": size(predicted),
        "asked_bytes": size(asked),
        "estimated_bytes": size(predicted if estimated is None else estimated),
        "newer_bytes": size(newer),
        "tensors_bytes": size(predicted if tensors is None else tensors),
        **rest,
    }


def test_an_error_is_relative_to_what_was_measured() -> None:
    assert error(row(11.0)) == pytest.approx(0.1)
    assert error(row(None)) is None
    assert error(row(10.0), gigabyte=1000 * MIB) == pytest.approx(0.024)


@pytest.mark.parametrize(
    ("found", "begin"),
    [
        (row(11.0, tensors=9.0), "workspaces: "),
        (row(11.0, asked=9.9), "workspaces: "),
        (row(9.0, estimated=10.1), "workspaces: "),
        (row(11.0, newer=10.1), "software: "),
        (row(1.59, measured_gb=1.5), "rounding: "),
        (row(1.61, measured_gb=1.5), "not found"),
        (row(9.6), "unit: "),
        (row(11.0), "not found"),
        (row(9.0, tensors=8.0), "not found"),
        (
            row(9.4, config=CONFIG.replace("fcn_r50-d8", "deeplabv3plus_r101-d16-mg124")),
            "the zoo contra",
        ),
    ],
)
def test_a_miss_has_the_cause_that_its_figures_tell(found: dict[str, Any], begin: str) -> None:
    assert cause(found).startswith(begin)


def test_the_section_counts_rows_that_were_known_apart() -> None:
    rows = [row(10.1, known=True), row(10.2), row(11.5, tensors=11.4), row(None)]
    text = "\n".join(section(rows))
    assert (
        "| workspaces estimated from the sizes | 1 known before | 1.00% | 1.00% | 100% | +1.0% |"
        in text
    )
    assert (
        "| workspaces estimated from the sizes | 2 others | 8.50% | 8.50% | 50% | +15.0% |" in text
    )
    assert "1 rows are further off than 3%" in text
    assert "Left out, 1: it cannot be traced" in text
