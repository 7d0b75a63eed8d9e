"""Eager tracing of compiled networks: the compiled code is not predicted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._dynamo import eval_frame

_WRAPPED = "_orig_mod"
"""The attribute in which a module of `torch.compile` keeps the module that it wraps."""


def as_written(model: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` wraps, or the module itself."""
    wrapped = getattr(model, _WRAPPED, model)
    assert isinstance(wrapped, nn.Module)  # noqa: S101 - PyTorch wraps modules only
    return wrapped


def path_as_written(path: str) -> str:
    """Remove the wrappers of `torch.compile` from the dotted path of a module."""
    return ".".join(part for part in path.split(".") if part != _WRAPPED)


@contextmanager
def not_compiled(note: Callable[[], None]) -> Iterator[None]:
    """Run compiled code eagerly, and report it.

    Args:
        note: Called before each run of compiled code.

    Source: `_callback_from_stance` in torch/_dynamo/eval_frame.py, which every compiled function
    calls (PyTorch 2.6 to 2.15). Its argument is None or False without a compiler.
    """
    decide = eval_frame._callback_from_stance  # noqa: SLF001 - no public equivalent

    def noting(compiler: Any) -> object:
        if compiler is not None and compiler is not False:
            note()
        return decide(compiler)

    with (
        torch.compiler.set_stance("force_eager"),
        mock.patch.object(eval_frame, "_callback_from_stance", noting),
    ):
        yield
