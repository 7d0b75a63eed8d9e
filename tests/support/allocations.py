"""Allocations and frees of a program on real CPU tensors, in order.

PyTorch's profiler reports each allocation and each free with its bytes, both of operators and
inside kernels. oneDNN is off because it keeps scratch memory, and one thread runs.
"""

import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.profiler import profile
from torch.library import Library
from torch.utils._python_dispatch import TorchDispatchMode

from bsprobe.simulate.cuda import COMPOSITES
from bsprobe.simulate.trace.unwatched import Unwatched
from bsprobe.simulate.versions import INSTALLED, Version

Changes = tuple[int, ...]
"""Allocated bytes, positive; freed bytes, negative."""


class Watching(TorchDispatchMode):
    """A mode that calls operators unchanged; PyTorch allocates differently under any mode."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # PyTorch's

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return func(*args, **(kwargs or {}))


def plainly(step: Callable[[], object]) -> Changes:
    """Return the allocations and frees of a program without a dispatch mode."""
    with _one_thread(), profile(use_cpu=True, profile_memory=True) as seen:
        step()
    assert seen.kineto_results is not None
    # Sort by time, the order in which an allocator sees them.
    return tuple(
        event.nbytes() for event in seen.kineto_results.events() if event.name() == "[memory]"
    )


def under(mode: TorchDispatchMode, step: Callable[[], object]) -> Changes:
    """Return the allocations and frees of a program under a mode."""

    def watched() -> None:
        with mode:
            step()

    return plainly(watched)


class AsUnwatched(TorchDispatchMode):
    """A mode that makes the same calls as PyTorch without it, and lists those of the backward pass.

    Args:
        version: The PyTorch that is imitated.
    """

    def __init__(self, version: Version = INSTALLED) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # PyTorch's
        self._unwatched = Unwatched(version)
        self.called: list[Any] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # its wrapper would also hold the arguments

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        func = self._unwatched.instead_of(func, args)
        out = func(*args, **(kwargs or {}))
        self._unwatched.note(func, args, out)
        if torch._C._current_graph_task_id() != -1:
            self.called.append(func)
        return out


@contextmanager
def composites() -> Iterator[None]:
    """Return the composite operators of a trace, without those that only CUDA has."""
    library = Library("aten", "IMPL")
    try:
        for name, kernel in COMPOSITES.items():
            library.impl(name, kernel, "AutogradCPU")
        yield
    finally:
        library._destroy()


def as_unwatched(step: Callable[[], object]) -> Changes:
    """Return the allocations and frees under a mode with bsprobe's corrections."""
    with composites():
        return under(AsUnwatched(), step)


def without_numbers(changes: Changes) -> Changes:
    """Remove changes of eight bytes, the size of a Python number on the host.

    A mode converts such a number to a tensor once more.
    """
    return tuple(change for change in changes if abs(change) != 8)


def peak(changes: Changes) -> int:
    """Return the most bytes above the start."""
    return max(itertools.accumulate(changes, initial=0))


def difference(plain: Changes, other: Changes) -> str:
    """Describe the first difference between two programs; empty if they are equal."""
    for index, (one, two) in enumerate(itertools.zip_longest(plain, other)):
        if one != two:
            return (
                f"change {index}: {one} bytes plainly, {two} under the mode"
                f" (then {plain[index + 1 : index + 6]}, {other[index + 1 : index + 6]})"
            )
    return ""


@contextmanager
def _one_thread() -> Iterator[None]:
    gc.disable()  # it would free memory of earlier programs
    threads, has_mkldnn = torch.get_num_threads(), torch._C._get_mkldnn_enabled()
    torch.set_num_threads(1)
    torch._C._set_mkldnn_enabled(False)  # noqa: FBT003 - `backends.mkldnn.flags` warns of Intel GPUs
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(has_mkldnn)
        torch.set_num_threads(threads)
        gc.enable()
