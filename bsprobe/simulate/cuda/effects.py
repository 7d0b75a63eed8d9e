"""Allocations of an operator: the words that the rules of the other files are written in."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from bsprobe.simulate.cudnn.convolutions import Convolution
from bsprobe.simulate.sums import Reduction


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """Memory that a kernel takes after the outputs before it, and gives back at once."""

    sizes: tuple[int, ...] = ()
    convolution: Convolution | None = None
    """The convolution whose further memory cuDNN tells."""
    reduction: Reduction | None = None
    """A sum whose further memory depends on the card."""
    uses_cublas: bool = False
    """True where cuBLAS has a workspace, which lives on."""
    elements: int | None = None
    """The elements of a kernel that counts them in 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Copies that an operator makes before the outputs after it."""

    sizes: tuple[int, ...]
    """Bytes of each. No sizes: the copies are freed."""


Effects = Iterator[torch.Tensor | Inside | Held]
Rule = Callable[[tuple[Any, ...], Any], Effects]


def copies(tensors: Iterable[torch.Tensor], layout: torch.memory_format) -> tuple[int, ...]:
    """Bytes of the dense copies that `contiguous(layout)` makes of those that are not so."""
    return tuple(
        tensor.numel() * tensor.element_size()
        for tensor in tensors
        if not tensor.is_contiguous(memory_format=layout)
    )


def is_dense(tensor: torch.Tensor) -> bool:
    """As `is_non_overlapping_and_dense` of C++."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def with_inside(out: Any, sizes: tuple[int, ...]) -> Effects:
    """Outputs, then the memory that the kernel takes beside them, if it takes any."""
    yield from tensors_of(out)
    if any(sizes):
        yield Inside(sizes=sizes)


def tensors_of(out: Any) -> Iterator[torch.Tensor]:
    """The tensors among an operator's results, in their order."""
    if isinstance(out, torch.Tensor):
        yield out
    elif isinstance(out, tuple | list):
        yield from (each for each in out if isinstance(each, torch.Tensor))
