"""`--resume` continues an unfinished run or study; otherwise it is an error with a hint."""

import shutil
from pathlib import Path

import pytest

from bsprobe.storage.folders import RUNS, STUDIES
from bsprobe.storage.runfile import load_run
from tests.support.commands import ROOT, bsprobe


@pytest.mark.parametrize(
    ("command", "journal"), [("run", RUNS.journal), ("study", STUDIES.journal)]
)
def test_resuming_elsewhere_names_the_unfinished_folder_below_reports(
    command: str, journal: str, tmp_path: Path
) -> None:
    begun = tmp_path / "reports" / "an ü"
    begun.mkdir(parents=True)
    (begun / journal).write_text("")
    done = bsprobe(command, "--resume", "--out=elsewhere", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "elsewhere does not exist" in done.stderr
    assert f"bsprobe {command} --resume --out 'reports/an ü'" in done.stderr
    # The journal there is empty, so it cannot be resumed either.
    begun_anew = bsprobe(command, "--resume", cwd=tmp_path)
    assert (begun_anew.returncode, list(begun.iterdir())) == (2, [])
    assert "without --resume" in begun_anew.stderr


def test_the_hint_for_the_other_kind_of_results_names_its_command(tmp_path: Path) -> None:
    (tmp_path / STUDIES.journal).write_text("")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / RUNS.journal).write_text("")
    run, study = (
        bsprobe("run", "--resume", "--out=.", cwd=tmp_path),
        bsprobe("study", "--resume", "--out=r", cwd=tmp_path),
    )
    assert (run.returncode, study.returncode) == (2, 2)
    assert "bsprobe study --resume --out ." in run.stderr.splitlines()[-1]
    assert "bsprobe run --resume --out r" in study.stderr.splitlines()[-1]


FINISHED_RUN = ROOT / "reports" / "predicted-rtx-3090-deeplabv2-resnet101-512x1024"
FINISHED_STUDY = ROOT / "reports" / "study-cpu-deeplabv2-mini-64x128"


@pytest.mark.parametrize(
    ("command", "finished", "next_"),
    [("run", FINISHED_RUN, "bsprobe report 'a b'"), ("study", FINISHED_STUDY, "'a b/report.md'")],
)
def test_a_finished_run_or_study_is_not_resumed(
    command: str, finished: Path, next_: str, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "a b")
    (tmp_path / "a b" / (RUNS if command == "run" else STUDIES).journal).touch()
    done = bsprobe(command, "--resume", "--out=a b", cwd=tmp_path)
    error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert "a b is finished" in error
    assert next_ in hint


@pytest.mark.nightly  # two predictions
def test_a_prediction_for_several_processes_is_resumed_with_the_settings_of_its_journal(
    tmp_path: Path,
) -> None:
    network = ("--model=deeplabv2-mini", "--resolution=64x128", "--precision=fp32", "--norm=batch")
    options = ("--gpu=T4", *network, "--processes=4", "--memory-limit=6GiB", "--max-batch=2")
    assert bsprobe("run", *options, "--out=out", cwd=tmp_path).returncode == 0
    whole = load_run(tmp_path / "out")
    journal = tmp_path / "out" / RUNS.journal
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))
    (tmp_path / "out" / RUNS.result).unlink()
    done = bsprobe("run", "--resume", "--out=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load_run(tmp_path / "out").results[0].boundary == whole.results[0].boundary
    assert load_run(tmp_path / "out").settings == whole.settings
