"""Types and helpers for the rules that list an operator's allocations."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from bsprobe.simulate.cudnn.convolutions import Convolution
from bsprobe.simulate.sums import Reduction


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """Temporary memory of a kernel, allocated after the outputs that precede it and then freed."""

    sizes: tuple[int, ...] = ()
    """Bytes of each allocation."""
    convolution: Convolution | None = None
    """The convolution that needs cuDNN's workspace."""
    reduction: Reduction | None = None
    """The sum that needs a buffer, whose size depends on the card."""
    uses_cublas: bool = False
    """True if the kernel uses cuBLAS's workspace."""
    elements: int | None = None
    """Number of elements, if the kernel counts them in 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Copies that an operator makes before the outputs after it."""

    sizes: tuple[int, ...]
    """Bytes of each. No sizes: the copies are freed."""


Effects = Iterator[torch.Tensor | Inside | Held]
"""Outputs, copies and temporary memory of a call, in the order of their allocation."""
Rule = Callable[[tuple[Any, ...], Any], Effects]


def copies(tensors: Iterable[torch.Tensor], layout: torch.memory_format) -> tuple[int, ...]:
    """Bytes of the copies that `contiguous(layout)` makes of tensors in another layout."""
    return tuple(
        tensor.numel() * tensor.element_size()
        for tensor in tensors
        if not tensor.is_contiguous(memory_format=layout)
    )


def while_held(sizes: tuple[int, ...], effects: Effects) -> Effects:
    """Effects between the allocation of copies and their end; without copies, the effects alone."""
    if sizes:
        yield Held(sizes=sizes)
    yield from effects
    if sizes:
        yield Held(sizes=())


def is_dense(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is dense, as `is_non_overlapping_and_dense` does in C++."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def with_inside(out: Any, sizes: tuple[int, ...]) -> Effects:
    """Outputs, followed by the kernel's temporary memory if `sizes` are not all zero."""
    yield from tensors_of(out)
    if any(sizes):
        yield Inside(sizes=sizes)


def tensors_of(out: Any) -> Iterator[torch.Tensor]:
    """The tensors among an operator's results, in order."""
    if isinstance(out, torch.Tensor):
        yield out
    elif isinstance(out, tuple | list):
        yield from (each for each in out if isinstance(each, torch.Tensor))
