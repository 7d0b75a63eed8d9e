"""The rooms of the package: allowed imports, and modules that the parent never loads."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.support.commands import ROOT, python
from tests.support.optional_packages import needs_import_linter

CHILD = {
    "bsprobe.worker.child",
    "bsprobe.worker.ranks.store",
    "bsprobe.worker.zygote",
    "bsprobe.study.child",
}
"""Modules of `worker` and `study` that load torch, besides `study/learning/`."""
SLOW_TO_IMPORT = ("torch", "pandas", "matplotlib", "rich")
LINT = "import importlinter.cli as cli; cli.lint_imports_command(['--no-cache'])"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package and its contracts."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        ROOT / "bsprobe", tmp_path / "bsprobe", ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path


def lint(folder: Path) -> "subprocess.CompletedProcess[str]":
    return python("-c", LINT, cwd=folder, timeout=120, PYTHONPATH=str(folder), COLUMNS="200")


@needs_import_linter
def test_imports_only_go_down_the_rooms(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_import_linter
@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("records/units.py", "from bsprobe.storage import files", "Twelve rooms"),
        ("study/plan.py", "def late():\n    import bsprobe.engine.fit", "Twelve rooms"),
        ("loose.py", "", "Twelve rooms"),
        ("simulate/cuda/effects.py", "import bsprobe.simulate.trace.ddp", "The simulation"),
        ("engine/fit.py", "import torch.nn", "The parent"),
        ("report/fit.py", "import bsprobe.worker.child", "The parent"),
        ("simulate/timeline.py", "import cudnn", "cuDNN"),
        ("storage/files.py", "import pandas", "Tables"),
    ],
)
def test_an_import_that_breaks_a_contract_is_found(
    file: str, line: str, contract: str, copy: Path
) -> None:
    with (copy / "bsprobe" / file).open("a", encoding="utf-8") as module:
        module.write(f"\n{line}\n")
    done = lint(copy)
    broken = [text for text in done.stdout.splitlines() if text.endswith("BROKEN")]
    assert done.returncode == 1, done.stdout + done.stderr
    assert any(text.startswith(contract) for text in broken), done.stdout


def test_each_module_of_worker_and_study_is_listed_for_the_parent_or_the_child() -> None:
    """The contract lists the parent's modules by name, so a new one could be forgotten."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (listed,) = [each["source_modules"] for each in contracts if "The parent" in each["name"]]
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("worker", "study")
        for path in (ROOT / "bsprobe" / room).rglob("*.py")
        if path.name != "__init__.py"
    }
    of_nobody = {
        name for name in found - CHILD if not name.startswith((*listed, "bsprobe.study.learning."))
    }
    assert (of_nobody, CHILD - found, CHILD & set(listed)) == (set(), set(), set())


@pytest.mark.parametrize(
    "module",
    [
        "bsprobe",
        "bsprobe.api",
        "bsprobe.cli",
        "bsprobe.cli.run",
        "bsprobe.__main__",
        "bsprobe.engine.run",
        "bsprobe.study.run",
        "bsprobe.worker.ranks.runner",
    ],
)
def test_the_parent_process_loads_nothing_slow(module: str) -> None:
    script = f"import sys, {module}; print([m for m in {SLOW_TO_IMPORT} if m in sys.modules])"
    done = python("-c", script, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
