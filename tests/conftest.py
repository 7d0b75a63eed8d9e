"""Settings for all tests."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.optional_packages import ModuleWithOptionalPackages

if "PYTEST_XDIST_WORKER" in os.environ:
    # Waiting OpenMP threads spin, so with parallel tests each process uses one thread; otherwise
    # two processes that share the cores are several times slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background makes them and their children ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> ModuleWithOptionalPackages:
    """Skip modules that need a package that is not installed."""
    return ModuleWithOptionalPackages.from_parent(parent, path=module_path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let idle processes take over tests of busy ones if only `-n` is given.

    Neighbouring tests stay together and share fixtures, and no process waits for the last one.
    """
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling  # noqa: PLC0415 - an optional package

    return WorkStealingScheduling(config, log)
