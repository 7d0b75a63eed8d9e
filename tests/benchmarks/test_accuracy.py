"""The accuracy report, from fabricated records and in the repository."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import accuracy
from benchmarks.accuracy_figures import Accuracy, Aim, Spread, aims, joined, reserved, spread
from benchmarks.accuracy_file import load
from benchmarks.accuracy_report import render
from benchmarks.fake_reports import REPORTS
from benchmarks.truth_records import ROOT, load_all
from bsprobe.records.errors import FileError
from bsprobe.records.variants import Norm
from tests.support.fabricated_truth import (
    ELSEWHERE,
    LIMIT,
    MACHINE,
    SPEC,
    requests_here,
    truth_trial,
    write_boundary,
    write_machine,
    write_trial,
)
from tests.support.tiny_networks import VARIANT

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a card, two trials (the second 10 % below its prediction) and a boundary."""
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


def test_what_other_versions_predict_is_compared_in_its_peaks_alone_and_the_report_says_so(
    root: Path,
) -> None:
    same = figures(root)
    write_machine(root / "card", replace(MACHINE, environment=ELSEWHERE))
    found = figures(root)
    assert found == replace(
        same,
        machines=tuple(
            replace(each, recorded=found.machines[0].recorded) for each in same.machines
        ),
        trials=tuple(replace(each, requests=None) for each in same.trials),
    )
    assert [each.requests is None for each in same.trials] == [False, True]
    assert (same.machines[0].difference, found.machines[0].difference is None) == (None, False)
    judged, other = render(same), render(found)
    assert "not compared" not in judged
    assert "## Request by request" in judged
    assert "The requests of card were **not compared**" in other
    assert f"{found.machines[0].difference}" in other
    assert "| card | PyTorch 2.5.1, cuDNN 9.1.0 | " in other
    assert "bash benchmarks/judge.sh" in other
    assert "## Request by request" not in other


def test_the_report_says_which_aims_are_met_of_those_with_figures(root: Path) -> None:
    median, worst, workspaces = aims(figures(root))
    assert [median.found, worst.found] == pytest.approx([0.05, 0.1], abs=1e-6)
    assert [each.is_met for each in (median, worst)] == [False, False]
    assert workspaces == Aim(
        what="workspaces equal, at least", aimed=0.99, found=1.0, count=10, is_met=True
    )
    write_boundary(root / "card", 20)
    found = figures(root)
    boundaries = list(aims(found))[2]
    assert boundaries == Aim(
        what="boundaries exact, at least", aimed=0.95, found=0.0, count=1, is_met=False
    )
    text = render(found)
    assert "| peak reserved, median error at most | 1% | 5.00% | 2 | not met |" in text
    assert "| workspaces equal, at least | 99% | 100.00% | 10 | met |" in text
    assert list(aims(joined([]))) == []


def test_figures_of_several_environments_make_one_report(root: Path, tmp_path: Path) -> None:
    write_boundary(root / "card", 20)
    other = tmp_path / "other"
    write_machine(other / "later-card", replace(MACHINE, environment=ELSEWHERE))
    write_trial(other / "later-card", truth_trial(), requests_here())
    files = [str(tmp_path / "one.json"), str(tmp_path / "two.json")]
    for source, file in zip((root, other), files, strict=True):
        accuracy.main(["--truth", str(source), "--out", str(tmp_path / "no"), "--save", file])
    assert not (tmp_path / "no").exists()
    accuracy.main(["--load", *files, "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "accuracy.md").read_text()
    assert text == render(joined([figures(root), figures(other)]))
    assert "of 3 training steps" in text


def test_figures_that_are_damaged_or_of_another_version_are_refused(tmp_path: Path) -> None:
    for content, words in (
        ("{", "is damaged"),
        ('{"schema_version": 1}', "is damaged"),
        (
            '{"schema_version": 9, "found": {"machines": [], "trials": [], "boundaries": []}}',
            "has version 9",
        ),
    ):
        path = tmp_path / "figures.json"
        path.write_text(content)
        with pytest.raises(FileError, match=words):
            load(path)
    with pytest.raises(FileError, match="does not exist"):
        load(tmp_path / "nothing.json")


def test_without_figures_the_report_says_so_and_draws_nothing(tmp_path: Path) -> None:
    accuracy.main(["--truth", str(tmp_path / "nothing"), "--out", str(tmp_path)])
    text = (tmp_path / "accuracy.md").read_text()
    assert text.startswith("# Accuracy: no prediction ")
    assert "no errors to show" in text
    assert not (tmp_path / "accuracy.png").exists()


def test_the_report_in_the_repository_is_what_the_command_writes() -> None:
    if any(load_all(ROOT)):
        pytest.skip("a GPU has been recorded: predicting all of it takes minutes")
    written = (REPORTS / "accuracy.md").read_text(encoding="utf-8")
    assert written == render(joined([]))


def test_a_spread_takes_errors_without_their_sign_and_keeps_the_worst() -> None:
    assert spread([]) is None
    assert spread([0.01, -0.02, 0.03, -0.05, 0.0]) == Spread(
        count=5,
        median=0.02,
        ninetieth=0.042,  # between the fourth and the fifth of five
        worst=-0.05,
    )
