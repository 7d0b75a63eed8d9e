"""The workflows, as far as testable without GitHub: their form and their commands."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from bsprobe.analysis.thresholds import Metric, parse_threshold
from bsprobe.records.units import GIB, MIB
from bsprobe.storage.runfile import load_run
from tests.support.commands import ROOT, run
from tests.support.pages import blocks, bsprobe_lines, parse

WORKFLOWS = sorted((ROOT / ".github").glob("*/*.yml"))
PAGE = ROOT / "docs" / "ci.md"
EXAMPLES = [path for path in WORKFLOWS if path.parent.name == "examples"]
OWN = ROOT / ".github" / "workflows" / "memory.yml"
"""This project's job that compares with its baseline."""


def jobs_of(path: Path) -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return loaded


def steps_of(path: Path) -> list[dict[str, Any]]:
    return [step for job in jobs_of(path).values() for step in job["steps"]]


def commands(path: Path) -> list[list[str]]:
    return [words for step in steps_of(path) for words in bsprobe_lines(step.get("run", ""))]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_the_form_that_github_asks_for(path: Path) -> None:
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    # YAML 1.1 reads the key `on` as true.
    assert {"name", True, "jobs"} <= set(loaded)
    assert set(loaded) <= {"name", True, "jobs", "permissions", "concurrency"}
    for job in loaded["jobs"].values():
        assert {"runs-on", "steps", "timeout-minutes"} <= set(job)
    for step in steps_of(path):
        assert ("uses" in step) != ("run" in step)
        assert set(step) <= {"uses", "run", "with", "env", "if", "name"}
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/none@v1"))


@pytest.mark.parametrize("path", [*EXAMPLES, OWN], ids=lambda path: path.name)
def test_every_bsprobe_command_of_a_workflow_parses(path: Path) -> None:
    found = commands(path)
    assert found
    for words in found:
        parse(words)


def test_a_command_that_does_not_parse_is_found() -> None:
    for line in ("bsprobe compare a b --fail-onn peak:3%", "bsprobe runn", "bsprobe ci"):
        (words,) = bsprobe_lines(line)
        with pytest.raises(click.ClickException):
            parse(words)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_may_only_read_and_fails_a_pull_request(path: Path) -> None:
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert loaded["permissions"] == {"contents": "read"}
    assert list(loaded[True]) == ["pull_request"]
    (last,) = [words for words in commands(path) if words[0] in ("compare", "ci")]
    assert "github" in last
    assert not any(step.get("continue-on-error") for step in steps_of(path))


def test_a_self_hosted_runner_is_not_open_to_forks() -> None:
    (job,) = jobs_of(ROOT / ".github" / "examples" / "bsprobe-measure.yml").values()
    assert "self-hosted" in job["runs-on"]
    assert job["if"] == "github.event.pull_request.head.repo.full_name == github.repository"


def test_the_page_on_ci_shows_the_steps_of_the_examples() -> None:
    for block, name in zip(blocks(PAGE, "yaml"), ("predict", "measure"), strict=True):
        example = ROOT / ".github" / "examples" / f"bsprobe-{name}.yml"
        text = example.read_text(encoding="utf-8")
        assert text.endswith(textwrap.indent(f"{block}\n", " " * 6))


def test_what_the_page_on_ci_prepares_is_what_the_example_installs() -> None:
    (block,) = [each for each in blocks(PAGE, "sh") if "pip wheel" in each]
    made = {
        words[words.index("--wheel-dir") + 1]
        for words in map(shlex.split, block.splitlines())
        if "--wheel-dir" in words
    }
    installs = steps_of(ROOT / ".github" / "examples" / "bsprobe-predict.yml")[2]["run"]
    assert (made, installs) == (
        {"benchmarks"},
        "pip install benchmarks/bsprobe-*.whl -r benchmarks/requirements.txt",
    )
    for name in ("benchmarks/baseline.json", "benchmarks/requirements.txt"):
        assert name in block
    copied = re.findall(r"^cp PATH/TO/bsprobe/(\S+)", block, re.MULTILINE)
    assert [name for name in copied if (ROOT / name).exists()] == copied != []


@pytest.mark.parametrize("path", [*EXAMPLES, OWN], ids=lambda path: path.name)
def test_the_report_is_kept_as_an_artefact_whatever_the_comparison_says(path: Path) -> None:
    *_, upload = steps_of(path)
    (out,) = [words[words.index("--out") + 1] for words in commands(path) if "--out" in words]
    assert upload["uses"].startswith("actions/upload-artifact@")
    assert (upload["if"], upload["with"]["path"]) == ("always()", out)


def test_the_examples_fail_what_takes_200_mib_more() -> None:
    for path in EXAMPLES:
        (words,) = [words for words in commands(path) if words[0] in ("compare", "ci")]
        limits = [parse_threshold(words[i + 1]) for i, w in enumerate(words) if w == "--fail-on"]
        (reserved,) = [each for each in limits if each.metric is Metric.PEAK_RESERVED]
        # A measured figure has a noise of one segment, 20 MiB.
        assert reserved.allowed(80 * GIB) + 20 * MIB < 200 * MIB


def test_our_own_job_installs_the_pytorch_of_our_own_baseline() -> None:
    environment = load_run(ROOT / "benchmarks" / "baseline.json").environment
    pinned = (ROOT / "benchmarks" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert pinned == [
        f"torch=={environment.torch.partition('+')[0]}",
        f"torchvision=={str(environment.torchvision).partition('+')[0]}",
    ]


@pytest.mark.parametrize(
    ("workflow", "scripts"),
    [("ci.yml", [".ci/run", ".ci/oldest"]), ("nightly.yml", [".ci/gpu", ".ci/nightly"])],
)
def test_a_workflow_runs_the_scripts_that_are_there(workflow: str, scripts: list[str]) -> None:
    steps = steps_of(ROOT / ".github" / "workflows" / workflow)
    assert [step["run"] for step in steps if "run" in step] == [f"bash {each}" for each in scripts]
    assert [each for each in scripts if not (ROOT / each).exists()] == []


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """A checkout with only `.ci/run`, and commands that only log their calls."""
    shutil.copytree(ROOT / ".ci", tmp_path / "checkout" / ".ci")
    for name, script in STAND_INS.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


STAND_INS = {
    "python3": 'mkdir -p .venv/bin; cp "$(dirname "$0")"/* .venv/bin/',
    "uv": 'echo "uv $*" >>calls; [ "$FAILS" != yes ]',
    "pip": """echo "pip $*" >>calls
case "$*" in
  'config list') echo "global.constraint='/etc/some/limits.txt'" ;;
  *) [ "$FAILS" != yes ] ;;
esac""",
    **{name: f'echo "{name} $*" >>calls' for name in ("pytest", "ruff", "mypy", "lint-imports")},
}


def ci_run(folder: Path, *, installation_fails: bool) -> tuple[int, list[str]]:
    """Run `.ci/run` with the stand-ins; return its exit code and all its calls."""
    environment = {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "FAILS": "yes" if installation_fails else "no",
    }
    checkout = folder / "checkout"
    ended = subprocess.run(
        ["/bin/bash", ".ci/run"], check=False, cwd=checkout, env=environment, timeout=60
    )
    return ended.returncode, (checkout / "calls").read_text(encoding="utf-8").splitlines()


def test_ci_ends_where_the_installation_fails(stand_ins: Path) -> None:
    code, calls = ci_run(stand_ins, installation_fails=True)
    assert code != 0
    assert [call for call in calls if not call.startswith(("pip", "uv"))] == []


def test_ci_installs_within_the_limits_of_pip_and_runs_the_tests_and_all_checks(
    stand_ins: Path,
) -> None:
    code, calls = ci_run(stand_ins, installation_fails=False)
    assert code == 0
    assert [call for call in calls if call.startswith("uv")] == [
        "uv pip install --python .venv/bin/python --constraint /etc/some/limits.txt -e .[dev]"
    ]
    done = sorted(call for call in calls if not call.startswith(("pip", "uv")))
    assert done == [
        "lint-imports ",
        "mypy ",
        "pytest -n auto",
        "ruff check .",
        "ruff format --check .",
    ]


NETWORK = """
import torch
from torch import nn


class Network(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.append(nn.Conv2d(8, num_classes, 1))
        self.register_buffer("table", torch.zeros(ENTRIES))
"""
"""A user's network, with a buffer of four bytes an entry."""
PREPARE = (
    *("bsprobe", "run", "--model", "net:Network", "--norm", "batch", "--precision", "fp32"),
    *("--gpu", "custom", "--capacity", "4GiB", "--compute-capability", "8.6"),
    *("--resolution", "128x128", "--out", "first"),
)


def as_a_job(step: str, folder: Path) -> int:
    """Run a step like GitHub: bash stops at the first failing command."""
    (folder / "bin").mkdir(exist_ok=True)
    script = folder / "bin" / "bsprobe"
    # An installed script has its own folder on its path, not the current one.
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom bsprobe.__main__ import main\nmain()\n",
        encoding="utf-8",
    )
    script.chmod(0o755)
    done = run(
        *("/bin/bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step),
        cwd=folder,
        PATH=f"{script.parent}:{os.environ['PATH']}",
        XDG_CACHE_HOME=str(folder / "cache"),
        GITHUB_STEP_SUMMARY=str(folder / "summary.md"),
    )
    (folder / "output.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    return done.returncode


@pytest.mark.nightly
def test_a_network_that_grows_by_200_mib_fails_the_job_and_one_that_does_not_passes_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "net.py").write_text(NETWORK.replace("ENTRIES", "1"), encoding="utf-8")
    prepared = as_a_job(shlex.join(PREPARE), tmp_path)
    assert prepared == 0, (tmp_path / "output.txt").read_text()
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "first" / "run.json").rename(tmp_path / "benchmarks" / "baseline.json")
    (step,) = [
        step["run"]
        for step in steps_of(ROOT / ".github" / "examples" / "bsprobe-predict.yml")
        if step.get("run", "").startswith("bsprobe")
    ]
    assert as_a_job(step.replace("bsprobe-run", "unchanged"), tmp_path) == 0
    grown = NETWORK.replace("ENTRIES", str(200 * MIB // 4))
    (tmp_path / "net.py").write_text(grown, encoding="utf-8")
    assert as_a_job(step, tmp_path) == 1
    assert "::error title=bsprobe%3A peak-reserved regressed::fp32 / as built" in (
        tmp_path / "output.txt"
    ).read_text(encoding="utf-8")
    summaries = re.findall(r"^## .*", (tmp_path / "summary.md").read_text(), re.MULTILINE)
    assert summaries[0] == "## bsprobe: nothing regressed in 2 checks"
    assert "failed" in summaries[1]
    assert (tmp_path / "bsprobe-run" / "report.md").exists()
