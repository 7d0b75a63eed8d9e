"""PyTorch's list of its operators, with example arguments."""

import importlib
import sys
import unittest
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch


def operators() -> Sequence[Any]:
    """Return the operators that take fp32, each with `name`, `op` and `sample_inputs`."""
    with pytest.MonkeyPatch.context() as patch:
        # The list imports expecttest only for a test class.
        patch.setitem(sys.modules, "expecttest", SimpleNamespace(TestCase=unittest.TestCase))
        listed = importlib.import_module("torch.testing._internal.common_methods_invocations").op_db
    return [each for each in listed if torch.float32 in each.dtypes]


def samples_of(operator: Any, most: int = 12, *, requires_grad: bool = True) -> Iterator[Any]:
    """Yield a few example arguments, each with `input`, `args` and `kwargs`."""
    samples = operator.sample_inputs("cpu", torch.float32, requires_grad=requires_grad)
    for _, sample in zip(range(most), samples, strict=False):
        yield sample
