"""Source lines from which an operator was called."""

import linecache
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_OURS = f"{Path(__file__).parents[2]}{os.sep}"
_SIMULATE = f"{Path(__file__).parents[1]}{os.sep}"
_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_LIBRARIES = tuple({sysconfig.get_path(each) for each in ("purelib", "platlib", "stdlib")})


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLine:
    """A line of source code."""

    file: str
    number: int

    def __str__(self) -> str:
        text = linecache.getline(self.file, self.number).strip()
        place = f"{_shortened(self.file)}, line {self.number}"
        return f"{place} (`{text}`)" if text else place


def lines_of_caller() -> tuple[SourceLine, ...]:
    """Return the innermost line that called PyTorch, then the user's if that is a library's.

    Empty if neither a library's nor the user's code runs, such as in a backward pass.
    """
    found: list[SourceLine] = []
    for frame in _frames():
        line = SourceLine(file=frame.f_code.co_filename, number=frame.f_lineno)
        if not line.file.startswith(_LIBRARIES):
            return (*found, line)
        if not found:
            found.append(line)
    return tuple(found)


def place_of_caller() -> tuple[tuple[str, int, int], ...]:
    """Return the instruction that called PyTorch, and those of all its callers."""
    return tuple((frame.f_code.co_filename, frame.f_lineno, frame.f_lasti) for frame in _frames())


def _frames() -> "Iterator[FrameType]":
    """Yield the frames of libraries and of the user's code, innermost first."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - as `inspect` does, without its cost
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_OURS) and not file.startswith(_SIMULATE):
            return  # code that calls networks, losses and optimizers
        if not file.startswith((_TORCH, _SIMULATE, "<")):
            yield frame
        frame = frame.f_back


def _shortened(file: str) -> str:
    """Return the path relative to the current folder, or to one on Python's path."""
    roots = [Path.cwd(), *(Path(each) for each in sys.path if each)]
    shorter = [Path(file).relative_to(root) for root in roots if Path(file).is_relative_to(root)]
    return str(min(shorter, key=lambda each: len(each.parts), default=Path(file)))
