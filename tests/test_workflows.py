"""The workflows, as far as they can be checked without GitHub: their form, and what they run."""

import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import click
import pytest

from bsprobe.cli import bsprobe
from bsprobe.cli.comparing import comparison_options

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github").glob("*/*.yml"))
EXAMPLES = [path for path in WORKFLOWS if path.parent.name == "examples"]


def jobs_of(path: Path) -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return loaded


def steps_of(path: Path) -> list[dict[str, Any]]:
    return [step for job in jobs_of(path).values() for step in job["steps"]]


def bsprobe_lines(text: str) -> list[list[str]]:
    """The words after `bsprobe` of every line that runs it."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r"(?:^|&& |/)bsprobe ([a-z].*)$", joined, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


def commands(path: Path) -> list[list[str]]:
    return [words for step in steps_of(path) for words in bsprobe_lines(step.get("run", ""))]


def command_named(name: str) -> click.Command:
    """A command; of `ci`, which is not there yet, the options that it is to share."""
    if name in bsprobe.commands or name != "ci":
        return bsprobe.commands[name]

    @click.command("ci")
    @click.option("--baseline", required=True)
    @comparison_options
    def ci(**_: object) -> None:
        """Its part is to parse."""

    return ci


def parse(words: list[str]) -> None:
    """Parse a command line as bsprobe would; nothing is run."""
    name, *arguments = words
    command_named(name).make_context(name, arguments)


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


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_bsprobe_command_of_an_example_parses(path: Path) -> None:
    found = commands(path)
    assert found
    for words in found:
        parse(words)


def test_a_command_that_does_not_parse_is_found() -> None:
    for line in ("bsprobe compare a b --fail-onn peak:3%", "bsprobe runn", "bsprobe ci"):
        (words,) = bsprobe_lines(line)
        with pytest.raises((click.ClickException, KeyError)):
            parse(words)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_may_only_read_and_fails_a_pull_request(path: Path) -> None:
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert loaded["permissions"] == {"contents": "read"}
    assert list(loaded[True]) == ["pull_request"]
    (last,) = [words for words in commands(path) if words[0] in ("compare", "ci")]
    assert "github" in last
    assert not any(step.get("continue-on-error") for step in steps_of(path))


def test_a_runner_of_ones_own_is_not_open_to_forks() -> None:
    (job,) = jobs_of(ROOT / ".github" / "examples" / "bsprobe-measure.yml").values()
    assert "self-hosted" in job["runs-on"]
    assert job["if"] == "github.event.pull_request.head.repo.full_name == github.repository"


def test_the_readme_shows_the_steps_of_the_example() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    example = (ROOT / ".github" / "examples" / "bsprobe-measure.yml").read_text(encoding="utf-8")
    assert textwrap.indent(block, " " * 6) in example


def test_ci_runs_the_scripts_that_are_there() -> None:
    run = [
        step["run"] for step in steps_of(ROOT / ".github" / "workflows" / "ci.yml") if "run" in step
    ]
    assert run == ["bash .ci/run", "bash .ci/oldest"]
    assert [line for line in run if not (ROOT / line.split()[1]).exists()] == []
