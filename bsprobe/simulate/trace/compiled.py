"""Compiled networks, traced as they are written: what a compiler makes of them is not predicted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._dynamo import eval_frame

_WRAPPED = "_orig_mod"
"""The attribute of the module that `torch.compile` puts around another one."""


def as_written(model: nn.Module) -> nn.Module:
    """The network itself, where it is wrapped by `torch.compile` as a whole."""
    wrapped = getattr(model, _WRAPPED, model)
    assert isinstance(wrapped, nn.Module)  # noqa: S101 - of PyTorch's own wrapper
    return wrapped


def path_as_written(path: str) -> str:
    """The dotted path of a module without what `torch.compile` puts around modules."""
    return ".".join(part for part in path.split(".") if part != _WRAPPED)


@contextmanager
def not_compiled(note: Callable[[], None]) -> Iterator[None]:
    """Run what goes through `torch.compile` as it is written, and say so.

    Args:
        note: Called whenever something compiled is run.

    Source: `_callback_from_stance` in torch/_dynamo/eval_frame.py, which all that is compiled asks
    what is to be done (PyTorch 2.6 to 2.15); without a compiler it is given None, or False.
    """
    decide = eval_frame._callback_from_stance  # noqa: SLF001 - no public function tells

    def noting(compiler: Any) -> object:
        if compiler is not None and compiler is not False:
            note()
        return decide(compiler)

    with (
        torch.compiler.set_stance("force_eager"),
        mock.patch.object(eval_frame, "_callback_from_stance", noting),
    ):
        yield
