"""What the parent process never loads: a picture of `sys.modules`, which no static check has."""

import subprocess
import sys

import pytest

from tests.support.commands import ROOT

SLOW_TO_IMPORT = ("torch", "pandas", "matplotlib", "rich")


@pytest.mark.parametrize(
    "module",
    [
        "bsprobe",
        "bsprobe.api",
        "bsprobe.cli",
        "bsprobe.engine.executable_batch",
        "bsprobe.__main__",
        "bsprobe.engine.probe",
    ],
)
def test_the_parent_process_loads_nothing_slow(module: str) -> None:
    script = f"import sys, {module}; print([m for m in {SLOW_TO_IMPORT} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"
