"""`bsprobe ci`: a network that needs more memory than its baseline fails."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsprobe.storage.runfile import load_run, save_run
from tests.support import commands
from tests.support.builders import probed_run
from tests.support.commands import ROOT

BASELINE = ROOT / "benchmarks" / "baseline.json"
SMALL = (
    *("--model", "deeplabv2-resnet50", "--resolution", "64x128"),
    *("--precision", "fp32", "--norm", "batch"),
    *("--gpu", "custom", "--capacity", "2GiB", "--compute-capability", "8.6"),
)


def bsprobe(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return commands.bsprobe(*arguments, cwd=cwd, XDG_CACHE_HOME=str(cwd / "cache"))


def with_smaller_peaks(value: Any) -> Any:
    """The JSON of a run with allocated bytes reduced by a tenth."""
    if isinstance(value, list):
        return [with_smaller_peaks(item) for item in value]
    if isinstance(value, dict):
        return {
            key: int(0.9 * item) if key == "allocated_bytes" else with_smaller_peaks(item)
            for key, item in value.items()
        }
    return value


@pytest.mark.nightly  # test_workflows.py covers it in CI
def test_the_same_code_passes_and_a_network_that_grew_fails(tmp_path: Path) -> None:
    made = bsprobe("run", *SMALL, "--out", "baseline", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    same = bsprobe("ci", "--baseline", "baseline", "--out", "same", cwd=tmp_path)
    assert same.returncode == 0, same.stdout + same.stderr
    one, two = (load_run(tmp_path / name).trials for name in ("baseline", "same"))
    assert [(t.spec, t.measurement) for t in one] == [(t.spec, t.measurement) for t in two]

    before = json.loads((tmp_path / "baseline" / "run.json").read_text())
    (tmp_path / "before.json").write_text(json.dumps(with_smaller_peaks(before)))
    grown = bsprobe(
        *("ci", "--baseline", "before.json", "--out", "grown"),
        *("--fail-on", "peak-allocated:3%", "--format", "json"),
        cwd=tmp_path,
    )
    assert grown.returncode == 1, grown.stdout + grown.stderr
    assert {check["state"] for check in json.loads(grown.stdout)["checks"]} == {"regressed"}
    assert (tmp_path / "grown" / "report.md").exists()


def test_a_measured_baseline_is_refused(tmp_path: Path) -> None:
    save_run(probed_run(tmp_path), tmp_path)
    done = bsprobe("ci", "--baseline", "run.json", cwd=tmp_path)
    error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert "--baseline: run.json" in error
    assert "measured" in error
    assert "bsprobe run --gpu NAME" in hint


def test_a_baseline_of_another_pytorch_is_refused_before_anything_is_predicted(
    tmp_path: Path,
) -> None:
    run = load_run(BASELINE)
    older = replace(run, environment=replace(run.environment, torch="1.13.1+cu117"))
    save_run(older, tmp_path)

    done = bsprobe("ci", "--baseline", "run.json", "--out", "now", cwd=tmp_path)

    assert done.returncode == 2
    error = done.stderr.splitlines()[0]
    assert error.startswith("error: not comparable")
    assert ("torch" in error, "1.13" in error) == (True, True)
    assert not (tmp_path / "now").exists()


@pytest.mark.parametrize("baseline", ["nowhere", "nowhere/run.json"])
def test_a_baseline_that_is_not_there_is_a_clear_error(baseline: str, tmp_path: Path) -> None:
    done = bsprobe("ci", "--baseline", baseline, cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[0][:14]) == (2, "error: nowhere")
