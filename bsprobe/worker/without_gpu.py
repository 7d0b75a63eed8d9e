"""Environment variables that hide the GPUs and NVIDIA's driver from a predicting process.

A CUDA context in this process would take memory that is being measured. If the driver is installed
but no GPU is visible, cuDNN asks the driver again for each plan and fails each time, so that a
prediction takes minutes instead of seconds. A file that is not a library hides the driver's
library.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_NO_DRIVER: Final = Path(__file__).with_name("no_driver")
"""Folder of files with the names of the driver's library."""


def without_gpu(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to set in addition to an environment."""
    folders = filter(None, [str(_NO_DRIVER), environment.get("LD_LIBRARY_PATH")])
    return {"CUDA_VISIBLE_DEVICES": "", "LD_LIBRARY_PATH": os.pathsep.join(folders)}
