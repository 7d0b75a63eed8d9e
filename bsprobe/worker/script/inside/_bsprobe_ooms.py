"""Out-of-memory exceptions, seen when they are raised: a program may catch them."""

from __future__ import annotations

import contextlib
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

_SIGNS = (
    "DefaultCPUAllocator: can't allocate memory",  # c10/core/impl/alloc_cpu.cpp
    "DefaultCPUAllocator: not enough memory",
    "CUDA out of memory",  # c10/cuda/CUDACachingAllocator.cpp
    "HIP out of memory",
)
_LONGEST = 2000
"""Characters of a message that are kept."""
_SEEN = "_bsprobe_seen"
"""Attribute of an exception that was told. A reference would keep its tensors alive."""


def watch(tell: Callable[[str], object], library: str, *, may_trace: bool) -> None:
    """Call a function with the class and text of each out-of-memory exception, once.

    Args:
        tell: The function.
        library: The folder of PyTorch; its functions are not traced, their callers are.
        may_trace: True to trace functions on a Python without `sys.monitoring` (before 3.12).
    """

    def look(error: BaseException) -> None:
        with contextlib.suppress(Exception):
            if _is_out_of_memory(error) and not hasattr(error, _SEEN):
                setattr(error, _SEEN, True)
                words = (type(error).__name__, str(error))
                tell(": ".join(filter(None, words))[:_LONGEST])

    monitoring: Any = getattr(sys, "monitoring", None)
    if monitoring is not None:
        _monitor(monitoring, look)
    elif may_trace and sys.gettrace() is None:  # else a debugger, or a measurement of coverage
        _trace(look, library)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if any(each.__name__ == "OutOfMemoryError" for each in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def _monitor(monitoring: Any, look: Callable[[BaseException], None]) -> None:
    """Use PEP 669, which costs nothing until an exception is raised."""

    def raised(_code: CodeType, _offset: int, error: BaseException) -> None:
        look(error)

    for tool in (4, 3):  # the IDs that Python reserves for no kind of tool
        if monitoring.get_tool(tool) is None:
            monitoring.use_tool_id(tool, "bsprobe")
            monitoring.register_callback(tool, monitoring.events.RAISE, raised)
            monitoring.set_events(tool, monitoring.events.RAISE)
            return


def _trace(look: Callable[[BaseException], None], library: str) -> None:
    """Trace the exceptions of functions, without their lines."""

    def local(_frame: FrameType, event: str, details: Any) -> Any:
        if event == "exception":
            look(details[1])
        return local

    def called(frame: FrameType, _event: str, _details: Any) -> Any:
        # PyTorch's own functions pass an exception on: their callers see it.
        if frame.f_code.co_filename.startswith(library):
            return None
        frame.f_trace_lines = False
        return local

    import threading

    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if not frame.f_code.co_filename.startswith(library):
            frame.f_trace_lines = False
            frame.f_trace = local
        frame = frame.f_back
    threading.settrace(called)
    sys.settrace(called)
