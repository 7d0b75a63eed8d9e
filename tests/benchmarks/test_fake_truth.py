"""Recordings of a fake GPU are refused unless `--fake` is given, and reports on them are marked."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import accuracy, compare_requests
from benchmarks.fake_reports import REPORTS
from benchmarks.truth_prediction import gpu_of
from benchmarks.truth_records import ROOT, Fakes, load_all, load_machine
from bsprobe.records.errors import FileError, UsageError
from tests.support.commands import python
from tests.support.fabricated_truth import (
    FAKE_MACHINE,
    MACHINE,
    requests_here,
    truth_trial,
    write_machine,
    write_trial,
)

pytestmark = pytest.mark.usefixtures("tiny")

MACHINES = sorted(ROOT.glob("*/machine.json"))
REFUSAL = "recorded on a fake GPU"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one trial on a fake card."""
    folder = tmp_path / "truth" / "card"
    write_machine(folder, FAKE_MACHINE)
    write_trial(folder, truth_trial(), requests_here())
    return folder.parent


@pytest.mark.parametrize(
    ("name", "is_fake"),
    [
        ("FAKE NVIDIA H100 80GB HBM3", True),
        ("NVIDIA H100 (fake)", True),
        ("NVIDIA H100 80GB HBM3", False),
        ("NVIDIA FAKERY 1", False),
    ],
)
def test_a_fake_has_the_word_in_its_name(name: str, *, is_fake: bool) -> None:
    machine = replace(MACHINE, device=replace(MACHINE.device, name=name))
    assert machine.is_fake is is_fake


def test_a_fake_is_predicted_as_the_card_in_its_name() -> None:
    assert gpu_of(FAKE_MACHINE) == gpu_of(MACHINE)


def test_the_repository_contains_no_recording_of_a_fake() -> None:
    machines = [load_machine(path.parent) for path in MACHINES]
    assert [each for each in machines if each is None or each.is_fake] == []


def test_a_fake_is_loaded_only_if_fakes_are_accepted(root: Path) -> None:
    with pytest.raises(FileError, match=REFUSAL) as caught:
        list(load_all(root))
    assert "--fake" in (caught.value.hint or "")
    (truth,) = load_all(root, fakes=Fakes.ACCEPT)
    assert truth.machine == FAKE_MACHINE


def test_a_report_on_a_fake_is_asked_for_and_says_so_first(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ["--truth", str(root), "--out", str(out)]
    with pytest.raises(FileError, match=REFUSAL):
        accuracy.main(given)
    assert not out.exists()
    accuracy.main([*given, "--fake"])
    text = (out / "accuracy.md").read_text()
    assert text.startswith("# FAKE, nothing measured: Accuracy: peak reserved within ")


def test_figures_of_a_fake_stay_those_of_a_fake(root: Path, tmp_path: Path) -> None:
    figures, out = tmp_path / "figures.json", tmp_path / "out"
    accuracy.main(["--truth", str(root), "--save", str(figures), "--fake"])
    with pytest.raises(FileError, match="fake GPU"):
        accuracy.main(["--load", str(figures), "--out", str(out)])
    accuracy.main(["--load", str(figures), "--out", str(out), "--fake"])
    assert (out / "accuracy.md").read_text().startswith("# FAKE, nothing measured: ")


@pytest.mark.parametrize("folder", [REPORTS, REPORTS / "of-a-fake"])
def test_a_report_on_a_fake_never_goes_into_the_repositorys_reports(
    root: Path, tmp_path: Path, folder: Path
) -> None:
    written = (REPORTS / "accuracy.md").read_bytes()
    figures = tmp_path / "figures.json"
    accuracy.main(["--truth", str(root), "--save", str(figures), "--fake"])
    for source in (["--truth", str(root)], ["--load", str(figures)]):
        with pytest.raises(UsageError, match="fake GPU"):
            accuracy.main([*source, "--out", str(folder), "--fake"])
    assert (REPORTS / "accuracy.md").read_bytes() == written
    assert not (REPORTS / "of-a-fake").exists()


def test_requests_of_a_fake_are_compared_where_that_is_asked_for(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FileError, match=REFUSAL):
        compare_requests.main(["--truth", str(root)])
    compare_requests.main(["--truth", str(root), "--fake"])
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("FAKE, nothing measured: ")
    assert "10 of 10 workspaces; 0 differences" in second


@pytest.mark.nightly
def test_a_refusal_is_one_line_a_hint_and_exit_code_2(root: Path) -> None:
    done = python(accuracy.__file__, "--truth", root, "--out", root)
    assert (done.returncode, done.stdout) == (2, "")
    error, hint = done.stderr.splitlines()
    assert error.startswith(f"error: {root / 'card'} ")
    assert "fake GPU" in error
    assert hint.startswith("hint: ")
    assert "--fake" in hint
