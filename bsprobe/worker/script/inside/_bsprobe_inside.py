"""Records of a training, written from inside its processes.

The standard library only, Python 3.8 or later, PyTorch 1.10 or later: the environment of the
user's program need not hold bsprobe. PyTorch is never imported here, but its import is awaited.
"""

from __future__ import annotations

import atexit
import os
import platform
import sys
import time

from _bsprobe_imports import Awaited
from _bsprobe_limits import limit_of
from _bsprobe_memory import CudaMemory, HostMemory, growth, status, thread_stacks
from _bsprobe_ooms import watch
from _bsprobe_records import Records
from _bsprobe_steps import Counts, call_after_steps, is_within_step, optimizer_facts, rank_facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from typing import Any


def start() -> Awaited:
    """Wait for PyTorch in this process; return the finder that waits."""
    return Inside().awaited


class Inside:
    """A process of the user's command, and those that it forks."""

    def __init__(self) -> None:
        self._records = Records(os.environ["BSPROBE_RECORDS"])
        self._windows = {
            int(os.environ.get("BSPROBE_WARMUP") or 2),
            int(os.environ.get("BSPROBE_STEPS") or 5),
        }
        self._limit = limit_of(os.environ)
        self._host = HostMemory()
        self._counts = Counts()
        self._torch: Any = None
        self._tell = self._stepped
        self._is_limited = True
        self._before: dict[str, int] = {}
        self._limit.start()
        self.awaited = Awaited("torch", self._load, self._loaded, self._limit.start)
        os.register_at_fork(after_in_child=self._forked)

    def _load(self, spec: ModuleSpec) -> None:
        self._records.begin()
        self._limit.lift()
        self._limit.prepare(spec)

    def _loaded(self, torch: Any) -> None:
        self._torch = torch
        self._cuda = CudaMemory(torch.cuda)
        self._host.rest()
        self._limit.loaded(torch.cuda)
        self._limit.apply(self._host.data)
        if "torch._dynamo" not in sys.modules:
            # bsprobe's own trials have loaded it before their baseline: tens of MiB that the first
            # optimizer or torchvision loads, whichever comes first.
            Awaited("torch._dynamo", self._load_late, self._loaded_late, self._limit_again)
        self._records.open(
            torch=str(torch.__version__), python=platform.python_version(), limit=self._limit.name
        )
        call_after_steps(torch, self._optimizes, self._after_step)
        library = os.path.join(os.path.dirname(torch.__file__), "")
        watch(self._out_of_memory, library, may_trace=self._limit.is_of_data)
        atexit.register(self._end)

    def _load_late(self, _spec: ModuleSpec) -> None:
        self._limit.lift()
        self._before = status()

    def _loaded_late(self, dynamo: Any) -> None:
        self._host.leave_out(growth(self._before))
        self._limit_again()
        # A step that the program compiles is recorded without compiling the record.
        self._tell = dynamo.disable(self._stepped)

    def _optimizes(self) -> None:
        """Leave out the stacks of PyTorch's threads, whose number is settled by now."""
        self._host.leave_out({"VmData": thread_stacks(self._torch)})
        self._limit_again()

    def _limit_again(self) -> None:
        if self._is_limited:
            self._limit.apply(self._host.data)

    def _forked(self) -> None:
        """Lift the limit in a child until it steps: what it shares with its parent counts twice."""
        self._counts.forget()
        if self._limit.is_of_data and self._torch is not None:
            self._is_limited = False
            self._limit.lift()

    def _after_step(self, optimizer: Any) -> None:
        self._tell(optimizer)

    def _stepped(self, optimizer: Any) -> None:
        if is_within_step(optimizer):
            return
        step = self._counts.add(optimizer)
        memory = self._memory()
        if step in self._windows and memory["device"] == "cuda":
            # The time is measured between these two steps. Others are not waited for, since that
            # would slow the program down.
            self._cuda.synchronize()
        self._write("step", memory, step=step, **optimizer_facts(optimizer))
        if not self._is_limited:
            self._is_limited = True
            self._limit_again()

    def _out_of_memory(self, message: str) -> None:
        self._records.write("oom", message=message)

    def _end(self) -> None:
        if self._records.has_more:
            self._write("end", self._memory())

    def _memory(self) -> dict[str, Any]:
        return self._cuda.facts() or self._host.facts()

    def _write(self, kind: str, memory: dict[str, Any], **facts: Any) -> None:
        self._records.write(
            kind,
            time=time.monotonic(),
            benchmark=bool(self._torch.backends.cudnn.benchmark),
            **facts,
            **rank_facts(),
            **memory,
        )
