"""A network whose forward pass starts child processes and never returns from the kernel."""

import ctypes
import subprocess
import sys
import time

import torch
from torch import nn

SLEEP = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)")


class Stubborn(nn.Module):
    """A convolution behind a sleep of ten minutes.

    Args:
        holds_lock: Sleep without releasing Python's lock, so that no other thread of the process
        runs. num_classes: The output channels of the convolution.
    """

    def __init__(self, *, holds_lock: bool, num_classes: int = 19) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, num_classes, 1)
        self._holds_lock = holds_lock

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        subprocess.Popen(SLEEP)
        if self._holds_lock:
            ctypes.PyDLL(None).sleep(600)
        time.sleep(600)
        outputs: torch.Tensor = self.layer(images)
        return outputs
