"""The report on published measurements: verdicts on batches, and the imitated versions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import published
from benchmarks.published_programs import WinogradWorkspaces
from benchmarks.published_report import write_report
from benchmarks.timm_report import best_limit, outside_bytes, reached, verdict
from bsprobe.records.units import GIB
from tests.support.convolution_examples import PLAIN


def rung(fits: float | None, following: float | None, **rest: Any) -> dict[str, Any]:
    """Return a timm row; the memory of its two batches is given in GiB."""

    def size(gib: float | None) -> int | None:
        return None if gib is None else round(gib * GIB)

    return {
        "model": "a",
        "image_size": 224,
        "fits": 64,
        "next_rung_failed": 96,
        "known": True,
        "left_out": None,
        "needed_at_fits": size(fits),
        "needed_at_next": size(following),
        "software": "PyTorch 2.14",
        **rest,
    }


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (rung(10, 20), "right"),
        (rung(10, None), "right"),
        (rung(10, 14), "too high"),
        (rung(16, 24), "too low"),
        (rung(None, None), "too low"),
    ],
)
def test_a_rung_is_right_where_one_batch_fits_and_the_next_does_not(
    row: dict[str, Any], expected: str
) -> None:
    assert verdict(row, 15 * GIB) == expected


def test_the_best_limit_is_the_one_that_most_rows_agree_with() -> None:
    rows = [rung(10, 20), rung(12, 30), rung(11, 40)]
    assert 12 * GIB <= best_limit(rows) <= 20 * GIB


def test_rows_that_are_left_out_are_not_counted() -> None:
    rows = [rung(10, 40), rung(10, 12), rung(1, 2, left_out="another network")]
    assert reached(rows) == "1 of 2 right"
    assert outside_bytes() > GIB


def test_a_part_whose_package_is_missing_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(published, "find_spec", lambda _: None)
    monkeypatch.setattr("sys.argv", ["published", "--part", "mmseg", "--out", str(tmp_path / "o")])
    with pytest.raises(SystemExit) as ended:
        published.main()
    assert ended.value.code == 2
    assert "published-requirements.txt" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_the_report_names_what_is_imitated_of_each_version(tmp_path: Path) -> None:
    equal = {"file": "r.json.gz", "is_equal": True, "text": "r.json.gz\n  all", "software": "s"}
    write_report(tmp_path, {"recordings": {"r": equal}, "timm": {"a": rung(10, 40)}})

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "1 of 1 recordings" in text
    versions = {
        cells[1]: cells[3]
        for line in text.splitlines()
        if len(cells := [cell.strip() for cell in line.split("|")]) == 6
    }
    assert "gradients added in place" in versions["kineto's recordings"]
    assert "gradients added in place" not in versions["HTA's recording"]
    assert "input of softmax freed" not in versions["timm's benchmark"]
    assert (tmp_path / "timm.csv").exists()
    assert (tmp_path / "memory.png").exists()


WIDE = replace(PLAIN, input_size=(2, 2048, 126, 255), weight_size=(512, 2048, 3, 3), stride=(1, 1))


def test_the_winograd_transform_keeps_36_numbers_for_each_channel_and_tile() -> None:
    tiles = 2 * 32 * 64
    expected = 4 * 36 * (tiles * (2048 + 512) + 2048 * 512)
    assert WinogradWorkspaces().candidates(WIDE) == (expected,)


@pytest.mark.parametrize(
    "changed",
    [
        {"weight_size": (512, 2048, 1, 1), "padding": (0, 0)},
        {"stride": (2, 2)},
        {"dilation": (2, 2)},
        {"weight_size": (512, 1024, 3, 3), "groups": 2},
    ],
)
def test_what_it_does_not_serve_has_no_workspace(changed: dict[str, Any]) -> None:
    assert WinogradWorkspaces().candidates(replace(WIDE, **changed)) == (0,)
