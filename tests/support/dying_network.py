"""A network whose process dies in its forward pass, in a way chosen by a variable."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tests.support.control_group import FILL

MANNER, ABOVE, DEAD = "DYING_MANNER", "DYING_ABOVE", "DYING_DEAD"
"""Variables for the way of dying, for the largest batch that survives, and for a file that lists
the processes that died."""


def _say_and_abort(words: str) -> None:
    os.write(2, words.encode() + b"\n")
    os.abort()


def _kill(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def _die_once() -> None:
    """Kill the first process; later ones live."""
    if len(Path(os.environ[DEAD]).read_text(encoding="ascii").split()) == 1:
        _kill(signal.SIGKILL)


MANNERS: dict[str, Callable[[], object]] = {
    "segmentation fault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "sys.exit(137)": lambda: sys.exit(137),
    "os._exit(0)": lambda: os._exit(0),
    "SIGKILL": lambda: _kill(signal.SIGKILL),
    "SIGTERM": lambda: _kill(signal.SIGTERM),
    "SIGKILL, once": _die_once,
    "fill the memory": lambda: exec(FILL),  # noqa: S102 - our own text
    "bad_alloc": lambda: _say_and_abort("what():  std::bad_alloc"),
    "ENOMEM": lambda: _say_and_abort("mmap: Cannot allocate memory"),
    "card is full": lambda: _say_and_abort("CUDA error: out of memory"),
}


class Dying(nn.Module):
    """One convolution whose forward pass kills the process."""

    def __init__(self, num_classes: int = 19) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > int(os.environ[ABOVE]):
            with Path(os.environ[DEAD]).open("a", encoding="ascii") as file:
                file.write(f"{os.getpid()}\n")
            MANNERS[os.environ[MANNER]]()
        outputs: torch.Tensor = self.layer(images)
        return outputs
