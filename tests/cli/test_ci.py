"""`bsprobe ci`: a network that grows fails its own pull request."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bsprobe.records.runs import Run
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
    return commands.bsprobe(*arguments, cwd=cwd, timeout=300, XDG_CACHE_HOME=str(cwd / "cache"))


def with_smaller_peaks(run: Run) -> Run:
    """The run as it was before the network grew by a tenth."""

    trials = []
    for trial in run.trials:
        measured = trial.measurement
        if measured is not None:
            peak = measured.steady
            steady = replace(peak, allocated_bytes=int(peak.allocated_bytes * 0.9))
            first = replace(
                measured.first_step,
                allocated_bytes=min(measured.first_step.allocated_bytes, steady.allocated_bytes),
            )
            measured = replace(measured, first_step=first, steady=steady)
        trials.append(replace(trial, measurement=measured))
    by_spec = {trial.spec: trial for trial in trials}
    results = tuple(
        replace(
            result,
            recommendation=result.recommendation
            and replace(
                result.recommendation,
                trial=result.recommendation.trial and by_spec[result.recommendation.trial.spec],
            ),
        )
        for result in run.results
    )
    return replace(run, trials=tuple(trials), results=results)


def test_the_same_code_passes_and_a_network_that_grew_fails(tmp_path: Path) -> None:
    made = bsprobe("run", *SMALL, "--out", "baseline", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    same = bsprobe("ci", "--baseline", "baseline", "--out", "same", cwd=tmp_path)
    assert same.returncode == 0, same.stdout + same.stderr
    before, after = (load_run(tmp_path / name).trials for name in ("baseline", "same"))
    assert [(t.spec, t.measurement) for t in after] == [(t.spec, t.measurement) for t in before]

    (tmp_path / "before").mkdir()
    save_run(with_smaller_peaks(load_run(tmp_path / "baseline")), tmp_path / "before")
    grown = bsprobe(
        *("ci", "--baseline", "before/run.json", "--out", "grown"),
        *("--fail-on", "peak-allocated:3%", "--format", "json"),
        cwd=tmp_path,
    )
    assert grown.returncode == 1, grown.stdout + grown.stderr
    assert {check["state"] for check in json.loads(grown.stdout)["checks"]} == {"regressed"}
    assert (tmp_path / "grown" / "report.md").exists()


def test_a_measured_baseline_is_refused_with_the_way_to_go(tmp_path: Path) -> None:
    folder = tmp_path / "measured"
    folder.mkdir()
    save_run(probed_run(tmp_path), folder)
    done = bsprobe("ci", "--baseline", "measured", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "error: --baseline: measured was measured, and bsprobe ci predicts"
    )


def test_a_baseline_of_another_pytorch_is_refused_before_anything_is_predicted(
    tmp_path: Path,
) -> None:
    run = load_run(BASELINE)
    older = replace(run, environment=replace(run.environment, torch="1.13.1+cu117"))
    (tmp_path / "older").mkdir()
    save_run(older, tmp_path / "older")

    done = bsprobe("ci", "--baseline", "older", "--out", "now", cwd=tmp_path)

    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: not comparable: the torch version of the baseline is 1.13, of the run "
    )
    assert not (tmp_path / "now").exists()


@pytest.mark.parametrize("baseline", ["nowhere", "nowhere/run.json"])
def test_a_baseline_that_is_not_there_is_a_clear_error(baseline: str, tmp_path: Path) -> None:
    done = bsprobe("ci", "--baseline", baseline, cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[0][:14]) == (2, "error: nowhere")
