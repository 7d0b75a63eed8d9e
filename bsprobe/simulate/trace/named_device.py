"""Programs that name a GPU: `cuda` is replaced by the device that is traced on."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses import FakeTensor

_TRACED_ON = torch.device("cpu")
_NAMED = "cuda"
_CAPTURABLE = "_get_capturable_supported_devices"
_is_autocast_enabled = torch.is_autocast_enabled
_get_autocast_dtype = torch.get_autocast_dtype
_autocast_init = torch.autocast.__init__
_module_to = nn.Module.to


@contextmanager
def named_device() -> Iterator[None]:
    """Replace the GPU by the traced device in a program's calls, autocast included."""
    patches: list[tuple[Any, str, Callable[..., Any]]] = [
        (FakeTensor, "cuda", _itself),
        (FakeTensor, "to", _moved),
        (nn.Module, "cuda", _itself),
        (nn.Module, "to", _module_moved),
        (torch.autocast, "__init__", _autocast),
        (torch, "is_autocast_enabled", _is_enabled),
        (torch, "get_autocast_dtype", _dtype),
        (torch, "get_autocast_gpu_dtype", _dtype),
        (torch.cuda, "synchronize", _nothing),
        (torch.cuda, "empty_cache", _nothing),
        *((module, _CAPTURABLE, _capturable) for module in _optimizers()),
    ]
    with ExitStack() as stack:
        for holder, name, replacement in patches:
            stack.enter_context(mock.patch.object(holder, name, replacement))
        yield


def names_gpu(kwargs: Mapping[str, Any]) -> bool:
    """Return whether the arguments of an operator name a GPU."""
    device = kwargs.get("device")
    return device is not None and device.type == _NAMED


def with_device(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with the traced device."""
    return {**kwargs, "device": _TRACED_ON}


def _itself(holder: Any, *_: object, **__: object) -> Any:
    return holder


def _nothing(*_: object, **__: object) -> None:
    """Replaces a call that changes no tensor."""


def _moved(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    named = {name: _here(value) for name, value in kwargs.items()}
    return torch.Tensor.to(tensor, *map(_here, args), **named)


def _module_moved(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Leave a network on its device: a move swaps tensors, which fake ones do not allow."""
    others = [each for each in (*args, *kwargs.values()) if not _is_device(each)]
    return _module_to(module, *args, **kwargs) if others else module


def _here(value: Any) -> Any:
    return _TRACED_ON if _is_device(value) and torch.device(value).type == _NAMED else value


def _is_device(value: Any) -> bool:
    return isinstance(value, str | torch.device)


def _autocast(
    context: torch.autocast,
    device_type: str,
    dtype: torch.dtype | None = None,
    enabled: bool = True,  # noqa: FBT001, FBT002 - PyTorch's signature
    cache_enabled: bool | None = None,  # noqa: FBT001 - as above
) -> None:
    if device_type == _NAMED:
        device_type = _TRACED_ON.type
        if dtype is None:  # `at::autocast::get_autocast_dtype`: fp16 by default
            dtype = _dtype() if _is_enabled() else torch.float16
    _autocast_init(context, device_type, dtype, enabled, cache_enabled)


def _is_enabled(device_type: str = _NAMED) -> bool:
    return _is_autocast_enabled(_TRACED_ON.type if device_type == _NAMED else device_type)


def _dtype(device_type: str = _NAMED) -> torch.dtype:
    return _get_autocast_dtype(_TRACED_ON.type if device_type == _NAMED else device_type)


def _optimizers() -> list[Any]:
    """Return the modules of PyTorch's optimizers that list the devices with CUDA graphs."""
    modules = [each for name, each in sys.modules.items() if name.startswith("torch.optim.")]
    return [each for each in modules if hasattr(each, _CAPTURABLE)]


def _capturable(*_: object, **__: object) -> list[str]:
    return [_TRACED_ON.type]
