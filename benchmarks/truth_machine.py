"""Facts about the recorded machine."""

import json
from pathlib import Path

import torch

from benchmarks.truth_records import SCHEMA_VERSION, Machine, load_machine, save_machine
from bsprobe.devices.base import Device
from bsprobe.records.errors import FileError
from bsprobe.worker.environment import describe_environment
from bsprobe.worker.protocol import Ready


def machine_of(device: Device, *, outside_bytes: int) -> Machine:
    """Return the facts about this machine."""
    cudnn = torch.backends.cudnn.version()
    ready = Ready(
        device=device.info,
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=None if cudnn is None else str(cudnn),
        cpu_threads=torch.get_num_threads(),
    )
    return Machine(
        schema_version=SCHEMA_VERSION,
        device=device.info,
        environment=describe_environment(ready, "benchmarks/record_truth.py"),
        outside_at_rest_bytes=outside_bytes,
        properties=_torch_properties(),
        cudnn_properties=_cudnn_properties(),
    )


def note_machine(folder: Path, machine: Machine) -> None:
    """Write the machine's facts unless they exist.

    Raises:
        FileError: The folder was recorded with other versions, whose figures must not be mixed.
    """
    known = load_machine(folder)
    if known is None:
        save_machine(folder, machine)
    elif _versions(known) != _versions(machine):
        raise FileError(
            f"{folder} was recorded with {_versions(known)}, not {_versions(machine)}",
            hint="give another --out",
        )


def _versions(machine: Machine) -> str:
    environment = machine.environment
    return f"PyTorch {environment.torch}, CUDA {environment.cuda}, cuDNN {environment.cudnn}"


def outside_at_rest() -> int:
    """Return the bytes of the GPU held outside PyTorch's allocator, other processes included."""
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def _torch_properties() -> tuple[tuple[str, str], ...]:
    if not torch.cuda.is_available():
        return ()
    properties = torch.cuda.get_device_properties(0)
    values = ((name, getattr(properties, name)) for name in dir(properties) if name[0] != "_")
    return tuple((name, str(value)) for name, value in values if isinstance(value, int | str))


def _cudnn_properties() -> str:
    """Return cuDNN's description of the GPU, or the reason for its absence; never raises."""
    try:
        import cudnn  # noqa: PLC0415 - optional

        return json.dumps(json.loads(cudnn.create_device_properties(0).serialize()))
    except ModuleNotFoundError:
        return "nvidia-cudnn-frontend is not installed"
    except Exception as error:  # noqa: BLE001 - the optional package also raises assertions
        return f"cuDNN does not say: {error!r}"
