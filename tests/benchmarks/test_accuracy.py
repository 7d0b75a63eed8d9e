"""The accuracy report: from fabricated records, and as it stands in the repository."""

from dataclasses import replace
from pathlib import Path

import accuracy
import pytest
from accuracy_figures import Accuracy, Spread, reserved, spread
from accuracy_report import render
from fabricated_truth import (
    LIMIT,
    SPEC,
    requests_here,
    truth_trial,
    write_boundary,
    write_machine,
    write_trial,
)
from tiny_networks import VARIANT, TinyNet
from truth_records import ROOT, load_all

from bsprobe.simulate import fake_model
from bsprobe.variants import Norm


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fake_model, "build_model", TinyNet)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One card, two trials (the second 10 % lighter than predicted), one boundary."""
    folder = tmp_path / "truth" / "card"
    write_machine(folder)
    write_trial(folder, truth_trial(), requests_here())
    other = replace(SPEC, variant=replace(VARIANT, norm=Norm.GROUP))
    write_trial(folder, truth_trial(other, scale=1 / 1.1), None)
    return folder.parent


def figures(root: Path) -> Accuracy:
    (truth,) = load_all(root)
    return accuracy.checked(truth)


def test_errors_are_those_that_were_put_in(root: Path) -> None:
    found = figures(root)
    assert [each.error(reserved) for each in found.trials] == pytest.approx([0.0, 0.1], abs=1e-6)
    exact, lighter = found.trials
    assert exact.requests is not None
    assert exact.requests.differences == ()
    assert lighter.requests is None
    assert exact.is_judged_rightly


def test_a_boundary_is_predicted_by_the_ordinary_search(root: Path) -> None:
    write_boundary(root / "card", 20)
    (boundary,) = figures(root).boundaries
    assert (boundary.measured, boundary.capacity_bytes) == (20, LIMIT)
    assert boundary.difference == boundary.predicted - 20 > 0
    again = root.parent / "again"
    write_machine(again / "card")
    write_boundary(again / "card", boundary.predicted)
    (exact,) = figures(again).boundaries
    assert exact.difference == 0


def test_the_report_says_it_all_in_its_first_line_and_draws_it(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_boundary(root / "card", 20)
    out = tmp_path / "out"
    accuracy.main(["--truth", str(root), "--out", str(out)])
    text = (out / "accuracy.md").read_text()
    first = text.splitlines()[0]
    assert capsys.readouterr().out == first + "\n"
    assert first == (
        "# Accuracy: peak reserved within 5.00% in the median, 10.00% at worst, of 2 training "
        "steps measured on 1 GPU; 0 of 1 boundaries exact"
    )
    assert "| norm: group | 1 | 10.00% | 10.00% | +10.00% |" in text
    assert "| norm: batch | 1 | 0.00% | 0.00% | +0.00% |" in text
    assert "(100.00%) have the predicted size" in text
    assert "1 are too high" in text
    assert {path.name for path in out.iterdir()} == {"accuracy.md", "accuracy.png", "accuracy.svg"}


def test_without_figures_the_report_says_so_and_draws_nothing(tmp_path: Path) -> None:
    accuracy.main(["--truth", str(tmp_path / "nothing"), "--out", str(tmp_path)])
    text = (tmp_path / "accuracy.md").read_text()
    assert text.startswith("# Accuracy: no prediction has been held against a GPU yet\n")
    assert "no errors to show" in text
    assert not (tmp_path / "accuracy.png").exists()


def test_the_report_in_the_repository_is_what_the_command_writes() -> None:
    if any(load_all(ROOT)):
        pytest.skip("a GPU has been recorded: predicting all of it takes minutes")
    written = (accuracy.REPORTS / "accuracy.md").read_text(encoding="utf-8")
    assert written == render(Accuracy(trials=(), boundaries=()))


def test_a_spread_takes_errors_without_their_sign_and_keeps_the_worst() -> None:
    assert spread([]) is None
    assert spread([0.01, -0.02, 0.03, -0.05, 0.0]) == Spread(
        count=5,
        median=0.02,
        ninetieth=0.042,  # between the fourth and the fifth of five
        worst=-0.05,
    )
