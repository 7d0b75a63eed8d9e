"""Programs started by tests import this checkout and keep the caller's PYTHONPATH."""

import os
import re
import signal
from pathlib import Path

import pytest

import bsprobe
from bsprobe.engine import workload
from bsprobe.storage.runfile import save_run
from tests.support import commands, stubbed_bsprobe
from tests.support.builders import AMP, VARIANT, probed_run, settings

FOLDERS = ("tests", "benchmarks")
ISOLATED = ["judge.py", "test_judge.py", "test_release.py", "test_rooms.py"]
"""Files whose programs run in another environment, without the packages of this one."""


@pytest.fixture
def customised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PYTHONPATH with a `sitecustomize` and another `bsprobe`."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.stderr.write('customised ')\n")
    (tmp_path / "bsprobe").mkdir()
    (tmp_path / "bsprobe" / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_program_finds_the_checkout_before_the_entries_of_its_caller(
    customised: Path, tmp_path: Path
) -> None:
    assert commands.python_path().split(":") == [str(commands.ROOT), str(customised)]

    done = commands.python("-c", "import bsprobe; print(bsprobe.__file__)", timeout=60)

    assert done.stdout.strip() == str(Path(bsprobe.__file__).resolve())
    assert done.stderr.startswith("customised")
    stubbed = stubbed_bsprobe.start("--version", cwd=tmp_path)
    assert stubbed_bsprobe.finish(stubbed)[2].startswith("customised")


@pytest.mark.usefixtures("customised")
def test_the_checkout_is_on_the_path_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", commands.python_path())
    path = commands.python_path()
    monkeypatch.setenv("PYTHONPATH", path)
    assert commands.python_path() == path


def test_only_the_isolated_files_set_a_path_by_hand() -> None:
    by_hand = re.compile(r"""PYTHONPATH["']?\s*[:=]\s*str\(""")
    found = [
        path.name
        for folder in FOLDERS
        for path in (commands.ROOT / folder).rglob("*.py")
        if by_hand.search(path.read_text(encoding="utf-8"))
    ]
    assert sorted(found) == ISOLATED


def test_the_workers_of_the_library_keep_what_is_on_the_path_of_their_parent(
    customised: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, str] = {}
    monkeypatch.setattr(workload, "start_runner", lambda _, variables: given.update(variables))

    workload.start_worker(settings())

    assert given["PYTHONPATH"].split(":")[-1] == str(customised)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("gpus --format=csv", 0),
        ("compare both one", 1),
        ("run --norm=grup", 2),
        ("run --steps=2", 2),
        ("report nowhere", 2),
    ],
)
def test_a_command_in_this_process_prints_and_returns_what_one_of_its_own_does(
    command: str, code: int, tmp_path: Path
) -> None:
    for name, variants in (("both", (VARIANT, AMP)), ("one", (VARIANT,))):
        (tmp_path / name).mkdir()
        save_run(probed_run(tmp_path / name, settings(*variants)), tmp_path / name)

    inside, outside = (
        each(*command.split(), cwd=tmp_path)
        for each in (commands.bsprobe, commands.bsprobe_process)
    )

    assert (outside.returncode, outside.stdout + outside.stderr != "") == (code, True)
    assert (inside.returncode, inside.stdout, inside.stderr) == (
        outside.returncode,
        outside.stdout,
        outside.stderr,
    )


def test_a_command_in_this_process_leaves_no_trace(tmp_path: Path) -> None:
    def surroundings() -> tuple[object, ...]:
        return Path.cwd(), dict(os.environ), signal.getsignal(signal.SIGTERM)

    before = surroundings()
    commands.bsprobe("gpus", cwd=tmp_path, BSPROBE_TEST="set")
    assert surroundings() == before
