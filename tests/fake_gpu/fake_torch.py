"""`torch.cuda` with stand-ins for calls to the driver; tensors are PyTorch's fake CUDA tensors.

The autograd engine cannot run on fake CUDA tensors without a driver, so a stand-in makes the
gradients: each parameter on the card gets one of its size, and no graph is kept.
"""

import weakref
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.fake_gpu.fake_card import CAPABILITY, NAME, TOTAL_BYTES, UUID, card
from tests.fake_gpu.stand_ins import stand_in


def install(torch: ModuleType) -> None:
    """Replace all calls to CUDA; the first use of the card enables fake tensors."""
    for name, function in _device(torch).items():
        stand_in(torch.cuda, name, function)
    for name, function in _memory().items():
        stand_in(torch.cuda.memory, name, function)
        if hasattr(torch.cuda, name):
            setattr(torch.cuda, name, getattr(torch.cuda.memory, name))
    stand_in(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)
    stand_in(torch.nn.Module, "_apply", _moved(torch))
    stand_in(torch.Tensor, "backward", _backward(torch))


def _device(torch: ModuleType) -> dict[str, Any]:
    properties = SimpleNamespace(
        name=NAME,
        major=CAPABILITY[0],
        minor=CAPABILITY[1],
        total_memory=TOTAL_BYTES,
        uuid=UUID,
        multi_processor_count=132,
        warp_size=32,
        L2_cache_size=52_428_800,
    )
    return {
        "Event": _Event,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "init": lambda: _open(torch),
        "current_device": lambda: 0,
        "set_device": lambda device: _checked(torch, device),
        "synchronize": lambda device=None: None,
        "get_device_properties": lambda device=None: properties,
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: CAPABILITY,
        "is_bf16_supported": lambda including_emulation=True: True,
        "is_current_stream_capturing": lambda: False,
    }


class _Event:
    """A time on the card's own clock."""

    def __init__(self, enable_timing: bool = False) -> None:  # noqa: FBT001, FBT002 - PyTorch's signature
        assert enable_timing
        self.seconds = 0.0

    def record(self) -> None:
        self.seconds = card().seconds

    def elapsed_time(self, end: "_Event") -> float:
        return (end.seconds - self.seconds) * 1000


def _memory() -> dict[str, Any]:
    def statistics() -> Any:
        return card().allocator.statistics

    def record(enabled: str | None = "all", *_: Any, **__: Any) -> None:
        card().record(is_wanted=enabled is not None)

    def stats(device: object = None) -> dict[str, int]:
        del device
        return {name: getattr(statistics(), name) - counted[name] for name in counted}

    def reset_counts(device: object = None) -> None:
        del device
        counted.update({name: getattr(statistics(), name) for name in counted})

    def cap(fraction: object, device: object = None) -> None:
        del device
        if not isinstance(fraction, float):  # PyTorch's message
            raise TypeError("Invalid type for fraction argument, must be `float`")
        card().cap(fraction)

    counted = {"num_alloc_retries": 0, "num_ooms": 0}  # the values at the last reset
    return {
        "mem_get_info": lambda device=None: (card().free_bytes, TOTAL_BYTES),
        "memory_allocated": lambda device=None: statistics().allocated_bytes,
        "memory_reserved": lambda device=None: statistics().reserved_bytes,
        "max_memory_allocated": lambda device=None: statistics().peak_allocated_bytes,
        "max_memory_reserved": lambda device=None: statistics().peak_reserved_bytes,
        "memory_stats": stats,
        "reset_accumulated_memory_stats": reset_counts,
        "reset_peak_memory_stats": lambda device=None: card().allocator.reset_peaks(),
        "empty_cache": lambda: card().allocator.empty_cache(),
        "memory_snapshot": lambda: card().snapshot()["segments"],
        "set_per_process_memory_fraction": cap,
        "_snapshot": lambda device=None: card().snapshot(),
        "_record_memory_history": record,
    }


def _checked(torch: ModuleType, device: Any) -> None:
    index = device if isinstance(device, int) else torch.device(device).index
    if index is None:  # PyTorch's message
        raise ValueError(
            f"Expected a torch.device with a specified index or an integer, but got:{device}"
        )
    if index != 0:
        raise AssertionError("Invalid device id")  # PyTorch's message


def _open(torch: ModuleType) -> None:
    """Create the context: from now on tensors made on the card are fake."""
    if card().outside_bytes:
        return
    card().open()
    from torch._subclasses import fake_tensor  # noqa: PLC0415 - torch is imported by now
    from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC0415 - as above

    class FakeCuda(fake_tensor.FakeTensorMode):
        """Fake tensors whose device is never initialised."""

        @property
        def avoid_device_init(self) -> bool:
            return True

    class Answers(TorchDispatchMode):
        """Returns values when a program reads one: found_inf is 0, a step count is 1."""

        def __torch_dispatch__(
            self,
            func: Any,
            types: tuple[type, ...],
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> Any:
            del types
            if func is torch.ops.aten._local_scalar_dense.default:
                value = float(args[0].device.type == "cpu")
                return value if args[0].dtype.is_floating_point else int(value)
            return func(*args, **(kwargs or {}))

    fake_tensor.init_gpu_context = lambda *_: None  # type: ignore[assignment] # cached in some versions
    fake_tensor.CONSTANT_NUMEL_LIMIT = -1  # constants would be evaluated on real tensors
    torch.set_grad_enabled(False)
    FakeCuda(allow_non_fake_inputs=True).__enter__()
    Answers().__enter__()  # type: ignore[no-untyped-call] # PyTorch's


_PARAMETERS: dict[int, "weakref.ref[Any]"] = {}
"""Parameters that were moved to the card."""


def _moved(torch: ModuleType) -> Any:
    def apply(self: Any, fn: Any, recurse: bool = True) -> Any:  # noqa: FBT001, FBT002 - PyTorch's signature
        """Move a module; `nn.Module._apply` cannot replace the data of fake parameters."""
        del recurse
        moved: dict[int, Any] = {}
        for module in self.modules():
            for key, parameter in module._parameters.items():
                if parameter is None:
                    continue
                if id(parameter) not in moved:
                    new = torch.nn.Parameter(fn(parameter), parameter.requires_grad)
                    moved[id(parameter)] = (new, parameter)
                    _PARAMETERS[id(new)] = weakref.ref(new)
                module._parameters[key] = moved[id(parameter)][0]
            for key, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[key] = fn(buffer)
        return self

    return apply


def _backward(torch: ModuleType) -> Any:
    def backward(self: Any, *_: Any, **__: Any) -> None:
        del self
        for key, reference in list(_PARAMETERS.items()):
            parameter = reference()
            if parameter is None:
                del _PARAMETERS[key]
            elif parameter.requires_grad and parameter.is_cuda and parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)

    return backward
