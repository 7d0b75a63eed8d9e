"""What the parent process never loads: a picture of `sys.modules`, which no static check has."""

import pytest

from tests.support.commands import ROOT, python

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
    done = python("-c", script, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("[]\n", "")
