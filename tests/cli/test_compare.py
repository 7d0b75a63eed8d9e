"""`bsprobe compare`: its output and exit codes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bsprobe.records.runs import Run
from bsprobe.storage.runfile import save_run
from tests.support.builders import AMP, VARIANT, probed_run, settings
from tests.support.commands import bsprobe
from tests.support.hostile import CONTROL, HOSTILE, commands_in, harmless, structure


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path, Run]:
    """Folders of a baseline and of a run without its second variant, and the baseline itself."""
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    run = probed_run(before, settings(VARIANT, AMP))
    save_run(run, before)
    save_run(probed_run(after, settings(VARIANT)), after)
    return before, after, run


def test_a_run_and_its_baseline_are_named_by_folder_or_by_file(
    runs: tuple[Path, Path, Run],
) -> None:
    before, _, _ = runs
    done = bsprobe("compare", before, before / "run.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "nothing regressed in 4 checks"


def test_a_missing_variant_exits_with_1(runs: tuple[Path, Path, Run]) -> None:
    before, after, _ = runs
    done = bsprobe("compare", before, after, "--fail-on", "peak:50%")
    assert (done.returncode, done.stderr) == (1, "")
    assert "the run has no such variant" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 of 2 checks failed")
    assert bsprobe("compare", after, before, "--fail-on", "peak:50%").returncode == 0


def test_json_has_the_checks_and_the_device(runs: tuple[Path, Path, Run]) -> None:
    before, after, _ = runs
    done = bsprobe("compare", before, after, "--fail-on", "max-batch:0", "--format", "json")
    body = json.loads(done.stdout)
    assert done.returncode == 1
    assert body["schema_version"] == 1
    assert body["device"]["source"] == "measured"
    ok, missing = body["checks"]
    assert ok["threshold"] == {"metric": "max-batch", "share": None, "absolute": 0.0}
    assert (ok["state"], ok["baseline"], ok["run"]) == ("ok", 12, 12)
    assert (missing["state"], missing["run"]) == ("missing", None)
    assert missing["variant"]["precision"] == "amp-fp16"


def test_on_github_there_are_annotations_and_a_summary(
    runs: tuple[Path, Path, Run], tmp_path: Path
) -> None:
    before, after, _ = runs
    summary = tmp_path / "summary.md"
    summary.write_text("# what another step wrote\n")
    done = bsprobe("compare", before, after, "--format=github", GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 1
    errors = [line for line in done.stdout.splitlines() if line.startswith("::error ")]
    assert [error.rpartition(": ")[0] for error in errors] == [
        f"::error title=bsprobe%3A {metric} missing::amp-fp16 / batch"
        for metric in ("max-batch", "peak")
    ]
    written = summary.read_text()
    assert written.startswith("# what another step wrote\n## bsprobe: 2 of 4 checks failed")
    # Outside GitHub there is no such file.
    assert (
        bsprobe("compare", before, before, "--format=github", GITHUB_STEP_SUMMARY="").returncode
        == 0
    )


@pytest.mark.parametrize("text", HOSTILE[:3])
def test_a_run_file_cannot_give_commands_to_github(
    runs: tuple[Path, Path, Run], tmp_path: Path, text: str
) -> None:
    before, _, run = runs
    summaries: list[object] = []
    for commit in (text, harmless(text)):
        save_run(replace(run, environment=replace(run.environment, commit=commit)), before)
        summary = tmp_path / f"{len(summaries)}.md"
        options = ("--format=github", "--fail-on", "max-batch:0")
        done = bsprobe("compare", before, before, *options, GITHUB_STEP_SUMMARY=str(summary))
        assert (done.returncode, [each.name for each in commands_in(done.stdout)]) == (
            0,
            ["notice"],
        )
        assert not CONTROL.search(done.stdout.replace("\n", ""))
        summaries.append(structure(summary.read_text(encoding="utf-8")))
    assert summaries[0] == summaries[1]


def test_runs_that_cannot_be_compared_exit_with_2_and_are_annotated_on_github(
    runs: tuple[Path, Path, Run], tmp_path: Path
) -> None:
    before, _, run = runs
    other = tmp_path / "other"
    other.mkdir()
    save_run(replace(run, device=replace(run.device, name="NVIDIA A100")), other)
    done = bsprobe("compare", before, other)
    error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert error.startswith("error: not comparable")
    assert ("NVIDIA GeForce RTX 4090" in error, "NVIDIA A100" in error) == (True, True)
    done = bsprobe("compare", before, other, "--format", "github")
    annotation = f"::error title=bsprobe::{error.removeprefix('error: ')}%0A{hint}\n"
    assert (done.returncode, done.stdout) == (2, annotation)


def test_a_damaged_run_exits_with_2(runs: tuple[Path, Path, Run]) -> None:
    before, after, _ = runs
    whole = (after / "run.json").read_bytes()
    (after / "run.json").write_bytes(whole[: len(whole) // 2])
    done = bsprobe("compare", before, after)
    assert (done.returncode, done.stdout) == (2, "")
    assert "run.json is damaged" in done.stderr
