"""The memory that a program takes and gives back on real CPU tensors, in order.

PyTorch's profiler reports each allocation and each end of one, with its bytes, whether an operator
makes it or a kernel inside. oneDNN is off, which keeps scratch of its own, and one thread runs.
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
"""Bytes allocated, and as negative ones bytes freed."""


class Watching(TorchDispatchMode):
    """A mode that calls what it sees: PyTorch does some things otherwise where one is active."""

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
    """What a program allocates and frees where nothing watches it."""
    with _one_thread(), profile(use_cpu=True, profile_memory=True) as seen:
        step()
    assert seen.kineto_results is not None
    # They come in the order of their times, as an allocator's lock would have it.
    return tuple(
        event.nbytes() for event in seen.kineto_results.events() if event.name() == "[memory]"
    )


def under(mode: TorchDispatchMode, step: Callable[[], object]) -> Changes:
    """What it allocates and frees under a mode."""

    def watched() -> None:
        with mode:
            step()

    return plainly(watched)


class AsUnwatched(TorchDispatchMode):
    """A mode that calls what PyTorch would call without it, and lists what a backward pass calls.

    Args:
        version: The PyTorch that is imitated.
    """

    def __init__(self, version: Version = INSTALLED) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # PyTorch's
        self._unwatched = Unwatched(version)
        self.called: list[Any] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # its wrapper would hold the arguments as well

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
    """The composite operators of a trace, but none that only CUDA has."""
    library = Library("aten", "IMPL")
    try:
        for name, kernel in COMPOSITES.items():
            library.impl(name, kernel, "AutogradCPU")
        yield
    finally:
        library._destroy()


def as_unwatched(step: Callable[[], object]) -> Changes:
    """What it allocates and frees under a mode with bsprobe's corrections."""
    with composites():
        return under(AsUnwatched(), step)


def without_numbers(changes: Changes) -> Changes:
    """Leaves out what has eight bytes, as a Python number in an operator has, on the host.

    Under a mode it is made a tensor once more.
    """
    return tuple(change for change in changes if abs(change) != 8)


def peak(changes: Changes) -> int:
    """The most bytes above those at the start."""
    return max(itertools.accumulate(changes, initial=0))


def difference(plain: Changes, other: Changes) -> str:
    """The first place at which two programs differ; nothing where they are alike."""
    for index, (one, two) in enumerate(itertools.zip_longest(plain, other)):
        if one != two:
            return (
                f"change {index}: {one} bytes plainly, {two} under the mode"
                f" (then {plain[index + 1 : index + 6]}, {other[index + 1 : index + 6]})"
            )
    return ""


@contextmanager
def _one_thread() -> Iterator[None]:
    gc.disable()  # it would free what earlier programs left
    threads, has_mkldnn = torch.get_num_threads(), torch._C._get_mkldnn_enabled()
    torch.set_num_threads(1)
    torch._C._set_mkldnn_enabled(False)  # noqa: FBT003 - `backends.mkldnn.flags` warns of Intel GPUs
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(has_mkldnn)
        torch.set_num_threads(threads)
        gc.enable()
