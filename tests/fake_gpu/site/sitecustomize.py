# ruff: noqa: INP001 - a folder on PYTHONPATH, not a package
"""Puts a fake GPU into every Python process that has this folder on its path.

Nothing is imported here but what waits for PyTorch, NVML and the trials to be imported: a process
that needs none of them, as the parent of a run, stays as light as it is.
"""

import os
import sys
from pathlib import Path

if os.environ.get("CUDA_VISIBLE_DEVICES") != "":  # hidden from the processes that predict
    # A server imports PyTorch once, with or without the fake GPU, for workers of both kinds.
    os.environ["BSPROBE_SPAWN"] = "1"
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from tests.fake_gpu import after_import

    after_import.install(
        {
            "torch": "tests.fake_gpu.fake_torch",
            "pynvml": "tests.fake_gpu.fake_nvml",
            "bsprobe.devices.stepping": "tests.fake_gpu.fake_trials",
        }
    )
