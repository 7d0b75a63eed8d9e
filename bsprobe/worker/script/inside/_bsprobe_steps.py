"""Steps of PyTorch's optimizers: counted, with their facts."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import sys
import weakref

from _bsprobe_limits import release

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

_LASTING_HOOKS_SINCE = (2, 5)
"""The first release whose hooks on steps are surely called.

Before 2.0 there are none. `TorchPatcher.patch` in torch/_dynamo/eval_frame.py, which runs at the
first use of `torch.compile`, removes the caller of all hooks in 2.2.2; in 2.5.1 it does not."""


class Counts:
    """Steps by optimizer."""

    def __init__(self) -> None:
        self._steps: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._most = 0

    def add(self, optimizer: Any) -> int:
        """Count a step; return the largest number of steps of an optimizer."""
        self._steps[optimizer] = self._steps.get(optimizer, 0) + 1
        self._most = max(self._most, self._steps[optimizer])
        return self._most

    def forget(self) -> None:
        """Start again, in a forked child."""
        self.__init__()  # type: ignore[misc]


def call_after_steps(
    torch: Any, created: Callable[[], object], stepped: Callable[[Any], object]
) -> None:
    """Call functions for the optimizers of this process; their exceptions are ignored.

    Args:
        torch: The module `torch`.
        created: Called before the first optimizer is made.
        stepped: Called with an optimizer after each of its steps.
    """
    optimizers: Any = sys.modules["torch.optim.optimizer"]

    def tell(optimizer: Any, *_: Any) -> None:
        with contextlib.suppress(Exception):
            stepped(optimizer)

    has_hooks = release(str(torch.__version__)) >= _LASTING_HOOKS_SINCE
    if has_hooks:
        optimizers.register_optimizer_step_post_hook(tell)
    running: set[int] = set()
    base = optimizers.Optimizer
    make = base.__init__
    first = [created]

    @functools.wraps(make)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - takes its place
        if has_hooks and base.__init__ is __init__:
            base.__init__ = make
        if first:
            with contextlib.suppress(Exception):
                first.pop()()
        make(self, *args, **kwargs)
        if not has_hooks:
            _wrap_step(type(self), running, tell)

    base.__init__ = __init__


def is_within_step(optimizer: Any) -> bool:
    """Return whether the step that has ended is a part of another one of the same optimizer.

    PyTorch wraps a step that calls its parent class's twice, if both classes have instances.
    """
    count = 0
    file = sys.modules["torch.optim.optimizer"].__file__
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == "wrapper" and code.co_filename == file:
            count += frame.f_locals["args"][0] is optimizer
        frame = frame.f_back
    return count > 1


def _wrap_step(kind: Any, running: set[int], tell: Callable[[Any], object]) -> None:
    """Wrap the step of an optimizer's class, as PyTorch does for its profiler.

    Args:
        kind: The class.
        running: The optimizers that step now, by `id`.
        tell: Called with the optimizer after a step.
    """
    import inspect

    step = kind.step
    if hasattr(step, "_bsprobe_counts"):
        return

    @functools.wraps(step)  # keeps the mark of PyTorch's own wrapper
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if id(self) in running:
            return step(self, *args, **kwargs)
        running.add(id(self))
        try:
            result = step(self, *args, **kwargs)
        finally:
            running.discard(id(self))
        tell(self)
        return result

    counted._bsprobe_counts = True  # type: ignore[attr-defined]
    # GradScaler looks at the signature. A wrapper that names what it wraps is removed by
    # torch.compile, see above.
    counted.__signature__ = inspect.signature(step)  # type: ignore[attr-defined]
    del counted.__wrapped__
    kind.step = counted


def optimizer_facts(optimizer: Any) -> dict[str, Any]:
    """Return the name, the learning rates and the number of parameters of an optimizer."""
    groups = optimizer.param_groups
    rates = [_number(group.get("lr")) for group in groups]
    return {
        "optimizer": type(optimizer).__name__,
        "rates": list(dict.fromkeys(rate for rate in rates if rate is not None)),
        "parameters": sum(each.numel() for group in groups for each in group["params"]),
    }


def _number(rate: Any) -> float | None:
    """Return a learning rate, or None if it is no finite number or on a GPU.

    Reading it from a GPU would wait for that.
    """
    if rate is None or (hasattr(rate, "device") and rate.device.type != "cpu"):
        return None
    number = float(rate)
    return number if math.isfinite(number) else None


def rank_facts() -> dict[str, int]:
    """Return the rank of this process among those that train together, and their number."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return {"rank": distributed.get_rank(), "world": distributed.get_world_size()}
    with contextlib.suppress(ValueError, KeyError):
        return {"rank": int(os.environ["RANK"]), "world": int(os.environ["WORLD_SIZE"])}
    return {"rank": 0, "world": 1}
