"""Programs on fake CUDA tensors, which follow CUDA's rules for operators, dtypes and shapes.

No GPU is needed. Traces on CPU tensors are compared with these programs.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from bsprobe.records.variants import MemoryFormat, Precision, Variant
from bsprobe.simulate.cuda import as_on_cuda, cuda_dispatch
from bsprobe.simulate.trace.fake_model import build_without_values, rearrange
from bsprobe.training.batches import laid_out
from bsprobe.training.losses import segmentation_loss, valid_pixels

REAL = "real tensors"
"""Device for which `Dispatched` leaves results unchanged."""
AUTOCAST_DTYPES = {Precision.AMP_FP16: torch.float16, Precision.AMP_BF16: torch.bfloat16}

Watch = Callable[[Any, tuple[Any, ...], Any], None]
Result = tuple[torch.dtype, tuple[int, ...], tuple[int, ...]] | None
Operators = list[tuple[str, tuple[Result, ...]]]
"""Dispatched operators, each with dtype, shape and strides of its results."""

HAS_FAKE_CUDA = torch.__version__ >= "2.7"
needs_fake_cuda = pytest.mark.skipif(
    not HAS_FAKE_CUDA, reason="before 2.7 fake CUDA tensors need a CUDA driver"
)


@contextmanager
def autocast(device: str, dtype: torch.dtype | None) -> Iterator[None]:
    """Enable autocast like `torch.autocast`, which disables itself for "cuda" without a GPU."""
    if dtype is None:
        yield
        return
    before = torch.get_autocast_dtype(device)
    torch.set_autocast_dtype(device, dtype)
    torch.set_autocast_enabled(device, True)  # noqa: FBT003 - PyTorch's signature
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, False)  # noqa: FBT003 - as above
        torch.set_autocast_dtype(device, before)
        torch.clear_autocast_cache()


def rules_of(device: str) -> AbstractContextManager[None]:
    """Return the context in which a device behaves like CUDA."""
    return cuda_dispatch() if device == "cpu" else nullcontext()


def run_forward(
    variant: Variant, device: str, *inside: AbstractContextManager[object], batch: int
) -> None:
    """Run a network's forward pass and loss inside some contexts."""
    with FakeTensorMode(), torch.device(device), ExitStack() as stack:
        model = build_without_values(variant)
        if variant.memory_format is MemoryFormat.NHWC:
            rearrange(model)
        size = (variant.size.height, variant.size.width)
        images = laid_out(torch.empty((batch, 3, *size)), variant.memory_format)
        labels = torch.zeros((batch, *size), dtype=torch.int64)
        for each in (autocast(device, AUTOCAST_DTYPES.get(variant.precision)), *inside):
            stack.enter_context(each)
        segmentation_loss(model(images), labels, valid_pixels(labels))


def forward_operators(variant: Variant, device: str, batch: int = 2) -> Operators:
    """Return the operators of a network's forward pass and loss."""
    operators: Operators = []

    def watch(operator: Any, _: tuple[Any, ...], out: Any) -> None:
        if operator.namespace != "prim":  # attributes such as the device
            results = out if isinstance(out, tuple | list) else (out,)
            operators.append((str(operator), tuple(map(_result, results))))

    run_forward(variant, device, rules_of(device), Dispatched(watch, device), batch=batch)
    return operators


class Dispatched(TorchDispatchMode):
    """Calls back after each dispatched operator; on "cpu" the results get CUDA's types."""

    def __init__(self, watch: Watch, device: str = "cpu") -> None:
        super().__init__()  # type: ignore[no-untyped-call] # PyTorch's
        self._watch = watch
        self._device = device

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._device == "cpu":
            out = as_on_cuda(func, args, out)
        self._watch(func, args, out)
        return out


def _result(value: object) -> Result:
    if not isinstance(value, torch.Tensor):
        return None
    return value.dtype, tuple(value.shape), value.stride()
