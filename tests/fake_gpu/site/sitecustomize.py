# ruff: noqa: INP001 - a folder on PYTHONPATH, not a package
"""Puts a fake GPU into every Python process that has this folder on its path.

Only import hooks for PyTorch, NVML and the trials are installed here, so that a process that
imports none of them, like the parent of a run, stays light.
"""

import os
import sys
from pathlib import Path

if os.environ.get("CUDA_VISIBLE_DEVICES") != "":  # predicting processes hide the GPU
    # A fork server imports PyTorch once, with or without the fake GPU, so workers must be spawned.
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
