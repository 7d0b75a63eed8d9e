"""What holds for every test."""

import os
import signal
from pathlib import Path

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
