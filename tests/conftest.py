"""What holds for every test."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.optional_packages import ModuleWithOptionalPackages

if "PYTEST_XDIST_WORKER" in os.environ:
    # Beside other tests a process has one thread: OpenMP's threads spin while they wait, and where
    # two processes share the cores everything takes several times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would everything
# that they start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> ModuleWithOptionalPackages:
    """Skip what needs a package that is not installed."""
    return ModuleWithOptionalPackages.from_parent(parent, path=module_path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let idle processes take over tests of busy ones, where `-n` alone is given.

    Neighbouring tests stay together, with what they share, and no process waits for the last one.
    """
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling  # noqa: PLC0415 - it may not be installed

    return WorkStealingScheduling(config, log)
