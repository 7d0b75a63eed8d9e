"""Choice of the device for a request."""

import re
from typing import TYPE_CHECKING

from bsprobe.devices.base import Device
from bsprobe.records.errors import DeviceError, UsageError
from bsprobe.records.gpus import DEFAULT_GPU, Gpu, find_gpu
from bsprobe.records.runs import DeviceRequest

if TYPE_CHECKING:
    import torch

_WITHOUT_GPU = (
    "predict for one: bsprobe run --gpu 'RTX 3090' (bsprobe gpus lists them); or probe the CPU: "
    "bsprobe run --device cpu --memory-limit 1500MiB --model deeplabv2-resnet50 "
    "--resolution 128x256 --precision fp32"
)


def open_device(request: DeviceRequest) -> Device:
    """Open the requested device; by default the machine's GPU, or a simulated one without a GPU.

    Raises:
        UsageError: The device name is unknown.
        DeviceError: The requested device is absent or cannot be used.
    """
    if request.gpu is not None:
        return _simulated(request.gpu, request)
    name = "cuda" if request.device is None else request.device
    if name == "cpu":
        from bsprobe.devices.cpu import CpuDevice  # noqa: PLC0415 - imports Linux-only modules

        return CpuDevice(request.memory_limit_bytes)
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise UsageError(f"--device: '{name}' is unknown", hint="choose cpu, cuda or cuda:N")
    from bsprobe.devices.cuda import CudaDevice, gpu_is_present  # noqa: PLC0415 - as above

    if request.device is None and not gpu_is_present():
        return _simulated(find_gpu(DEFAULT_GPU), request, is_assumed=True)
    if not gpu_is_present():
        raise DeviceError("there is no GPU in this machine", hint=_WITHOUT_GPU)
    return CudaDevice(int(match[1] or 0), request.memory_limit_bytes)


def torch_device(request: DeviceRequest) -> "torch.device":
    """PyTorch's device for a request of a real device; a GPU always has its index.

    `torch.cuda.set_device` and other functions do not accept `cuda` without an index.
    """
    import torch  # noqa: PLC0415 - slow, and a request that is rejected above does not need it

    name = request.device or "cuda"
    return torch.device("cuda:0" if name == "cuda" else name)


def _simulated(gpu: Gpu, request: DeviceRequest, *, is_assumed: bool = False) -> Device:
    from bsprobe.devices.simulated import SimulatedDevice  # noqa: PLC0415 - real devices need none

    return SimulatedDevice(gpu, request.memory_limit_bytes, is_assumed=is_assumed)
