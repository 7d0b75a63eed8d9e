"""The variables that keep a process from the GPUs and from NVIDIA's driver: it predicts.

A context of its own would take memory that is being measured. And where the driver is installed but
no GPU is visible, cuDNN asks the driver anew with each plan that it is asked for, and is refused
each time: a prediction took minutes instead of seconds. Whoever looks for the driver's library
finds a file first that is none.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_NO_DRIVER: Final = Path(__file__).with_name("no_driver")
"""A folder of files that bear the names of the driver's library."""


def without_gpu(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to set beside those of an environment."""
    folders = filter(None, [str(_NO_DRIVER), environment.get("LD_LIBRARY_PATH")])
    return {"CUDA_VISIBLE_DEVICES": "", "LD_LIBRARY_PATH": os.pathsep.join(folders)}
