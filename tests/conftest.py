"""What holds for every test."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Beside other tests a process has one thread: OpenMP's threads spin while they wait, and where
    # two processes share the cores everything takes several times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
