"""Networks without data: their parameters and buffers become fake tensors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode

from bsprobe.records.variants import Variant
from bsprobe.simulate.trace.compiled import path_as_written
from bsprobe.simulate.trace.named_device import named_device
from bsprobe.training.models.factory import build_model

_WITH_LAYOUT = (4, 5)
"""Dimensions of the tensors that `nn.Module.to(memory_format=…)` rearranges."""
_RANDOM_FILLS = frozenset(
    {
        "normal_",
        "uniform_",
        "kaiming_normal_",
        "kaiming_uniform_",
        "xavier_normal_",
        "xavier_uniform_",
        "orthogonal_",
        "erfinv_",
        "randn",
        "rand",
    }
)


def build_without_values(variant: Variant) -> nn.Module:
    """Build a network on real tensors, but do not draw its random initial values.

    Many networks cannot be built on fake tensors.

    Raises:
        UsageError: The variant names an unknown model or part.
    """
    with named_device(), _WithoutRandomValues(), _without_truncation():
        return build_model(variant)


def make_fake(
    model: nn.Module,
    mode: FakeTensorMode,
    on_move: Callable[[torch.Tensor, torch.Tensor, str], None],
) -> None:
    """Replace all parameters and buffers by fake ones, in the order in which `to` moves them.

    Args:
        model: The network; it is changed in place.
        mode: The mode of the fake tensors.
        on_move: Called with each fake tensor, the real one, and the dotted path of its module.
    """
    moved: dict[int, torch.Tensor] = {}  # shared tensors are moved once
    real: list[torch.Tensor] = []  # kept alive: a new tensor could get the same id
    for name, module in _children_first(model):
        holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)  # noqa: SLF001 - as `_apply` does
        for tensors in holders:
            for key, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in moved:
                    real.append(tensor)
                    moved[id(tensor)] = _faked(tensor, mode)
                    on_move(moved[id(tensor)], tensor, path_as_written(name))
                tensors[key] = moved[id(tensor)]


def _faked(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    fake = mode.from_tensor(tensor.detach())
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(fake, requires_grad=tensor.requires_grad)
    return fake


def _children_first(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield all modules in the order of `nn.Module._apply`."""
    for key, child in module.named_children():
        yield from _children_first(child, f"{name}.{key}" if name else key)
    yield name, module


def rearrange(model: nn.Module) -> None:
    """Convert a network to channels-last tensor by tensor, as `to(memory_format=…)` does.

    `to` itself swaps tensors, which fake ones do not allow.
    """
    for _, module in _children_first(model):
        for tensor in (*module._parameters.values(), *module._buffers.values()):  # noqa: SLF001 - as above
            if tensor is None or tensor.dim() not in _WITH_LAYOUT:
                continue
            is_flat = tensor.dim() == _WITH_LAYOUT[0]
            layout = torch.channels_last if is_flat else torch.channels_last_3d
            tensor.data = tensor.data.to(memory_format=layout)


class _WithoutRandomValues(TorchFunctionMode):
    """Skips random initialisation, which takes most of the time of building a network."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # `torch.nn.init` passes its tensor by name.
        filled = args[0] if args else kwargs.get("tensor")
        if getattr(func, "__name__", "") in _RANDOM_FILLS and isinstance(filled, torch.Tensor):
            return filled
        return func(*args, **kwargs)


@contextmanager
def _without_truncation() -> Iterator[None]:
    """Skip `torch.nn.init.trunc_normal_`, which no mode sees.

    From PyTorch 2.15 on it draws until all values are within its bounds. Without drawing, the
    uninitialised values may never be.
    """
    draw = torch.nn.init._no_grad_trunc_normal_
    torch.nn.init._no_grad_trunc_normal_ = _left_as_it_is
    try:
        yield
    finally:
        torch.nn.init._no_grad_trunc_normal_ = draw


def _left_as_it_is(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return tensor
