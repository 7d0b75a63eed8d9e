"""`bsprobe report`: one run rendered again, several in one table."""

import json
import shutil
from pathlib import Path

import pytest

from bsprobe.analysis.fleet import make_fleet
from bsprobe.report.compare.fleet import render_markdown
from bsprobe.storage.runfile import load_run
from tests.support.commands import ROOT, bsprobe

RUNS = ROOT / "reports"
CARDS = tuple(sorted(RUNS.glob("predicted-*")))
STUDY = RUNS / "study-cpu-deeplabv2-mini-64x128"


def test_several_runs_become_one_table_in_a_new_folder(tmp_path: Path) -> None:
    done = bsprobe("report", *CARDS, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    folder = "reports/fleet-deeplabv2-resnet101-512x1024"
    assert done.stdout.splitlines()[-2:] == [f"Wrote {folder}/", f"Next: read {folder}/fleet.md"]
    members = json.loads((tmp_path / folder / "fleet.json").read_text())["members"]
    names = ["RTX 3060 12GB", "RTX 3090", "A100-SXM4-80GB"]
    assert [member["name"] for member in members] == names
    for name in names:
        assert done.stdout.count(f"{name} ") == 5  # four variants, and the list of the runs


def test_the_fleet_in_the_repository_is_what_its_runs_render() -> None:
    fleet = make_fleet([(str(path.relative_to(ROOT)), load_run(path)) for path in CARDS])
    written = RUNS / "fleet-deeplabv2-resnet101-512x1024" / "fleet.md"
    assert render_markdown(fleet) == written.read_text(encoding="utf-8")


def test_files_and_folders_may_be_mixed_and_out_names_the_folder(tmp_path: Path) -> None:
    done = bsprobe("report", CARDS[0], CARDS[1] / "run.json", "--out", "a/b", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a" / "b" / "fleet.png").exists()


@pytest.mark.parametrize("name", ["report.md", "memory.png", "trials.csv", "journal.jsonl"])
def test_for_another_file_of_a_run_the_hint_names_the_right_ones(name: str, tmp_path: Path) -> None:
    shutil.copytree(CARDS[0], tmp_path / "a b")
    (tmp_path / "a b" / "journal.jsonl").write_text("{}\n{}\n")
    done = bsprobe("report", f"a b/{name}", cwd=tmp_path)
    error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert error.startswith(f"error: a b/{name} ")
    assert ("'a b'" in hint, "'a b/run.json'" in hint) == (True, True)


def test_one_run_is_rendered_again_as_before(tmp_path: Path) -> None:
    done = bsprobe("report", CARDS[0], "--out", "again", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "again" / "report.md").exists()
    assert not (tmp_path / "again" / "fleet.md").exists()


def test_a_run_under_another_name_is_rendered_into_a_new_folder(tmp_path: Path) -> None:
    shutil.copy(CARDS[0] / "run.json", tmp_path / "Baseline 1.json")
    (tmp_path / "report.md").write_text("my own")
    done = bsprobe("report", "Baseline 1.json", cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-2]) == (0, "Wrote reports/baseline-1/")
    assert (tmp_path / "reports" / "baseline-1" / "report.md").exists()
    assert (tmp_path / "report.md").read_text() == "my own"


@pytest.mark.parametrize(
    "path", [STUDY, STUDY / "study.json", RUNS, RUNS / "peers.png", Path("nowhere")]
)
def test_a_path_without_a_run_is_refused_and_nothing_is_written(path: Path, tmp_path: Path) -> None:
    done = bsprobe("report", CARDS[0], path, "--out", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    error, hint = done.stderr.splitlines()
    assert (error[:7], str(path) in error, hint[:6]) == ("error: ", True, "hint: ")
    assert list(tmp_path.iterdir()) == []
