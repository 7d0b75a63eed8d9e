"""The table is printed before anything is written: a full disk does not lose the answer."""

import errno
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from bsprobe.cli import ci as ci_command
from bsprobe.cli import gpus as gpus_command
from bsprobe.engine import explain as engine_explain
from bsprobe.engine.run import Finished
from bsprobe.records.errors import FileError
from bsprobe.records.fits import Fitting
from bsprobe.storage import files
from bsprobe.storage.codec import from_json, parse_json
from bsprobe.storage.runfile import load_run
from bsprobe.study import run as study_run
from bsprobe.study.studyfile import load_study
from tests.cli.test_explain import InventedExplaining
from tests.support.commands import ROOT, bsprobe

RUNS = ROOT / "reports"
CARDS = tuple(sorted(RUNS.glob("predicted-*")))
STUDY = RUNS / "study-cpu-deeplabv2-mini-64x128"
FIT = RUNS / "gpus-fit-deeplabv2-resnet101-512x1024"


@pytest.fixture(autouse=True)
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every file fail to be written."""

    def written_whole(path: Path) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(files, "written_whole", written_whole)


def refused_after(table: str, *arguments: object, cwd: Path) -> None:
    done = bsprobe(*arguments, cwd=cwd)
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()[-2:]
    assert error.endswith("No space left on device")
    assert hint.startswith("hint: check the disk space")
    assert table in done.stdout
    assert "Wrote" not in done.stdout


def test_a_report_of_one_run(tmp_path: Path) -> None:
    refused_after("amp-fp16 / group", "report", CARDS[0], "--out", "out", cwd=tmp_path)


def test_a_report_of_several_runs(tmp_path: Path) -> None:
    refused_after("RTX 3090", "report", *CARDS, cwd=tmp_path)


@pytest.mark.parametrize("runs", [CARDS[:1], CARDS], ids=["one", "several"])
def test_a_name_that_is_too_long_does_not_lose_the_table(
    runs: tuple[Path, ...], tmp_path: Path
) -> None:
    done = bsprobe("report", *runs, "--out", "n" * 256, cwd=tmp_path)
    error, hint = done.stderr.splitlines()
    assert (done.returncode, hint) == (2, "hint: give a shorter name")
    assert error.endswith("File name too long")
    assert "amp-fp16 / group" in done.stdout


def test_an_explanation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_explain, "Explaining", InventedExplaining(is_interrupted=False))
    refused_after("saved activations", "explain", "--gpu", "RTX 3060 12GB", cwd=tmp_path)


def test_a_fit_of_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = from_json(Fitting, parse_json((FIT / "fit.json").read_bytes()))
    monkeypatch.setattr(gpus_command, "_fitting", lambda *_: found)
    refused_after("RTX 3090", "gpus", "--fit", cwd=tmp_path)


def test_a_comparison_in_ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(CARDS[0])
    unsaved = FileError("out/run.json: No space left on device", hint="check the disk space")
    finished = Finished(run=run, folder=tmp_path, explanations={}, unsaved=unsaved)
    monkeypatch.setattr(ci_command, "probe", lambda _: finished)
    monkeypatch.setattr(
        "bsprobe.worker.environment.installed_version", lambda _: run.environment.torch
    )
    refused_after("nothing regressed", "ci", "--baseline", CARDS[0], cwd=tmp_path)


def test_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_run, "run", lambda *_, **__: (load_study(STUDY), tmp_path))
    options = ("--data", "D", "--model", "deeplabv2-mini", "--resolution", "32x64")
    monkeypatch.setattr("bsprobe.cli.study._require_there", _nothing)
    refused_after("mIoU", "study", *options, cwd=tmp_path)


def _nothing(_: Any) -> None:
    """Check nothing."""
