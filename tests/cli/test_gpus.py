"""`bsprobe gpus`, and `--this` with a stub in place of the GPU."""

import csv
import re
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bsprobe.cli.gpus import gpus, print_this
from bsprobe.records.errors import DeviceError
from bsprobe.records.gpus import COLUMNS, catalogue
from bsprobe.records.runs import DeviceRequest
from bsprobe.worker.process import Worker
from tests.support.commands import ROOT, bsprobe, rows

STUB = ROOT / "tests" / "support" / "stub_worker.py"


def this(behaviour: str, capfd: pytest.CaptureFixture[str]) -> tuple[str, str]:
    worker = Worker(DeviceRequest(), command=(sys.executable, str(STUB), behaviour))
    try:
        print_this(worker)
    finally:
        worker.close()
    printed = capfd.readouterr()
    return printed.out, printed.err


def test_the_table_is_plain_fits_80_columns_and_has_every_card() -> None:
    done = bsprobe("gpus")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line for line in lines if len(line) > 80 or not line.isascii() or "\x1b" in line] == []
    assert lines[0].split() == ["GPU", "capability", "usable", "outside", "allocator", "figures"]
    names = [card.name for card in catalogue()]
    assert [line[: len(name)] for line, name in zip(lines[1:], names, strict=False)] == names
    assert lines[1 + len(names)] == ""


def test_a_row_has_the_figures_of_its_card_and_says_which_are_estimates() -> None:
    lines = [line.split("  ") for line in bsprobe("gpus").stdout.splitlines()]
    cells = {line[0]: [cell.strip() for cell in line if cell] for line in lines}
    assert {name: cells[name] for name in ("RTX 3090", "A30", "RTX 5070")} == {
        "RTX 3090": ["RTX 3090", "8.6", "23.6 GiB", "307 MiB", "23.3 GiB", "reported"],
        "A30": ["A30", "8.0", "23.5 GiB", "236 MiB", "23.3 GiB", "outside est."],
        "RTX 5070": ["RTX 5070", "12.0", "11.5 GiB", "165 MiB", "11.3 GiB", "estimated"],
    }


def test_named_cards_are_listed_alone_in_the_order_of_their_names() -> None:
    for form in ("text", "csv"):
        done = bsprobe("gpus", "h200", "RTX 3090", "--format", form)
        lines = done.stdout.splitlines()[1:3]
        assert [re.split(" {2}|,", line)[0] for line in lines] == ["H200", "RTX 3090"]
    unknown = bsprobe("gpus", "RTX 3091")
    assert "did you mean RTX 3090?" in unknown.stderr.splitlines()[1]


def test_a_terminal_shows_the_same_words_with_the_headings_set_off() -> None:
    piped = CliRunner().invoke(gpus, [])
    shown = CliRunner().invoke(gpus, [], color=True)
    assert "\x1b[1m" in shown.output.splitlines()[0]
    assert click.unstyle(shown.output) == piped.output


def test_csv_has_the_source_of_every_figure() -> None:
    table = csv.DictReader(bsprobe("gpus", "--format", "csv").stdout.splitlines())
    assert [(row["name"], int(row["total_bytes"]), row["outside_source"]) for row in table] == [
        (card.name, card.total_bytes, card.outside_source) for card in catalogue()
    ]


def test_without_a_gpu_this_is_an_error() -> None:
    done = bsprobe("gpus", "--this", CUDA_VISIBLE_DEVICES="")
    if "no GPU" not in done.stderr:
        pytest.skip("this machine has a GPU")
    assert (done.returncode, done.stdout) == (2, "")
    assert "bsprobe gpus" in done.stderr.splitlines()[1]


def test_this_prints_a_line_for_the_catalogue_and_on_stderr_the_comparison(
    capfd: pytest.CaptureFixture[str],
) -> None:
    line, words = this("gpu", capfd)
    assert line == (
        "RTX 3090,8.6,,,24125,bsprobe gpus --this: driver 580.65.06,"
        '300,"bsprobe gpus --this: PyTorch 0, CUDA None"\n'
    )
    assert len(next(csv.reader([line]))) == len(COLUMNS)
    measured, catalogued, note, _ = words.splitlines()
    assert measured.startswith("NVIDIA GeForce RTX 3090, driver 580.65.06: 23.6 GiB")
    assert "300 MiB" in measured
    assert all(fact in catalogued for fact in ("RTX 3090", "23.6 GiB", "307 MiB"))
    assert note.startswith("Note ")


def test_this_works_for_a_card_that_the_catalogue_lacks(capfd: pytest.CaptureFixture[str]) -> None:
    line, words = this("unknown-gpu", capfd)
    assert line.startswith("Imaginary 1,13.0,,,24125,")
    assert "not in the catalogue" in words


def test_a_gpu_that_cannot_run_the_step_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DeviceError, match="small training step failed on stub") as refused:
        this("abort", capfd)
    assert refused.value.hint is not None


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--batch", "4"], ("--batch", "--fit")),
        (["--model", "deeplabv2-resnet50"], ("--model", "--fit")),
        (["--gpu", "RTX 3090"], ("--gpu", "--fit")),
        (["RTX 3090", "RTX 3091"], ("NAME", "'RTX 3091'")),
        (["--this", "RTX 3090"], ("--this", "RTX 3090")),
        (["--fit", "--gpu", "RTX 3090,9090"], ("--gpu", "'9090'")),
        (["--fit", "--this"], ("--this", "--fit")),
        (["--fit", "--model", "deeplab"], ("--model", "'deeplab'")),
    ],
)
def test_contradicting_options_are_refused(
    arguments: list[str], facts: tuple[str, ...], tmp_path: Path
) -> None:
    done = bsprobe("gpus", *arguments, *(["--out", str(tmp_path / "out")] * ("--fit" in arguments)))
    error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert (error[:7], hint[:6]) == ("error: ", "hint: ")
    assert [fact for fact in facts if fact not in error] == []


def fitted(folder: Path, *more: str) -> list[dict[str, str]]:
    """The rows of a fit over the catalogue; checks the output first."""
    done = bsprobe(
        *("gpus", "--fit", "--batch", "8", "--model", "deeplabv2-mini"),
        *("--resolution", "1024x2048", "--precision", "amp-fp16", "--norm", "batch"),
        *more,
        *("--out", str(folder / "out")),
        XDG_CACHE_HOME=str(folder),
    )
    assert done.returncode == 0, done.stderr
    *table, wrote, then = done.stdout.splitlines()  # the last two contain names of any length
    assert re.fullmatch(
        "Next: bsprobe run --gpu .* --model deeplabv2-mini --resolution 1024x2048 "
        "--precision amp-fp16 --norm batch",
        then,
    )
    assert wrote.startswith(f"Wrote {folder}")
    assert max(map(len, table)) <= 80
    return rows(folder / "out" / "fit.csv")


@pytest.mark.nightly
def test_every_card_of_the_catalogue_is_fitted(tmp_path: Path) -> None:
    found = fitted(tmp_path)
    assert [row["gpu"] for row in found if int(row["largest"]) >= 8]
    assert sorted(row["gpu"] for row in found) == sorted(gpu.name for gpu in catalogue())


def test_two_cards_are_fitted(tmp_path: Path) -> None:
    smaller, larger = fitted(tmp_path, "--gpu", "3060-12gb,RTX 3090,rtx3090")
    assert (smaller["gpu"], larger["gpu"]) == ("RTX 3060 12GB", "RTX 3090")
    assert 0 < int(smaller["largest"]) < int(larger["largest"])
