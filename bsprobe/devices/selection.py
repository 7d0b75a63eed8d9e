"""From what the command line asks for to an open device."""

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
    """Open a device: the one that is named, else the machine's GPU, else a simulated one.

    Raises:
        UsageError: The name is no device's.
        DeviceError: The device is absent or cannot be used; never replaced by another.
    """
    if request.gpu is not None:
        return _simulated(request.gpu, request)
    name = "cuda" if request.device is None else request.device
    if name == "cpu":
        from bsprobe.devices.cpu import CpuDevice  # noqa: PLC0415 - imports what only Linux has

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
    """PyTorch's name of a device that is really there; a GPU's has its number.

    `torch.cuda.set_device` and others refuse `cuda` without a number.
    """
    import torch  # noqa: PLC0415 - what is refused above needs none of it

    name = request.device or "cuda"
    return torch.device("cuda:0" if name == "cuda" else name)


def _simulated(gpu: Gpu, request: DeviceRequest, *, is_assumed: bool = False) -> Device:
    from bsprobe.devices.simulated import SimulatedDevice  # noqa: PLC0415 - real ones need none

    return SimulatedDevice(gpu, request.memory_limit_bytes, is_assumed=is_assumed)
