"""Limits on the memory of a process: `RLIMIT_DATA`, and CUDA's caching allocator."""

from __future__ import annotations

import contextlib
import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from typing import Any

_SETTING_SINCE = (2, 10)
"""The first PyTorch whose allocator settings have `per_process_memory_fraction`.

pytorch/pytorch#161035; c10/cuda/CUDAAllocatorConfig.h of 2.10.0 has it, that of 2.9.1 has not."""
_SETTING = "per_process_memory_fraction"
_SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


class NoLimit:
    """The absence of a limit."""

    name: str | None = None
    is_of_data = False

    def start(self) -> None:
        """Prepare a process that may never import PyTorch."""

    def lift(self) -> None:
        """Remove the limit while PyTorch is loaded."""

    def prepare(self, spec: ModuleSpec) -> None:
        """Prepare the import of PyTorch."""

    def loaded(self, cuda: Any) -> None:
        """Prepare the module `torch.cuda`."""

    def apply(self, base: int) -> None:
        """Apply the limit above a baseline, in bytes of data."""


class DataLimit(NoLimit):
    """RLIMIT_DATA: of the whole process at first, then above PyTorch.

    Args:
        size: Bytes.
    """

    name: str | None = "data above PyTorch"
    is_of_data = True

    def __init__(self, size: int) -> None:
        self._size = size

    def start(self) -> None:
        """Limit the whole process; it has inherited the limit of its parent, above PyTorch."""
        self._set(self._size)

    def lift(self) -> None:
        """Remove the limit."""
        self._set(None)

    def apply(self, base: int) -> None:
        """Set the limit above the baseline."""
        self._set(base + self._size)

    def _set(self, size: int | None) -> None:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if size is None or (hard != resource.RLIM_INFINITY and hard < size):
            size = hard
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (size, hard))


class CudaLimit(NoLimit):
    """A share of a GPU's memory, of which the caching allocator takes no more.

    Args:
        size: Bytes for the allocator.
        total: Bytes of the GPU, or 0 if that is not known.
    """

    name: str | None = "memory fraction"

    def __init__(self, size: int, total: int) -> None:
        self._size = size
        self._total = total

    def prepare(self, spec: ModuleSpec) -> None:
        """Add the share to the settings that this PyTorch reads from the environment."""
        if not self._total or _release_of(spec) < _SETTING_SINCE:
            return
        # PyTorch reads the second one only without the first (c10/core/AllocatorConfig.h).
        for name in [each for each in _SETTINGS if os.environ.get(each)] or _SETTINGS[:1]:
            os.environ[name] = _with_share(os.environ.get(name, ""), self._share(self._total))
        self.name = "allocator setting"

    def loaded(self, cuda: Any) -> None:
        """Set the share when CUDA is initialised; earlier it would make a context."""
        if self.name == "memory fraction":
            cuda._lazy_call(lambda: self._set(cuda))

    def _set(self, cuda: Any) -> None:
        for device in range(cuda.device_count()):
            share = self._share(cuda.get_device_properties(device).total_memory)
            cuda.set_per_process_memory_fraction(share, device)

    def _share(self, total: int) -> float:
        return min(1.0, max(0.0, self._size / total))


def _with_share(settings: str, share: float) -> str:
    """Return allocator settings with a share; a smaller one that is there stays."""
    kept = []
    for each in settings.split(",") if settings else []:
        name, _, value = each.partition(":")
        if name.strip() == _SETTING:
            with contextlib.suppress(ValueError):
                share = min(share, float(value))
        else:
            kept.append(each)
    return ",".join([*kept, f"{_SETTING}:{share:.9f}"])


def _release_of(spec: ModuleSpec) -> tuple[int, int]:
    """Return the release of a PyTorch that is not loaded, or (0, 0)."""
    with contextlib.suppress(OSError):
        folder = os.path.dirname(spec.origin or "")
        with open(os.path.join(folder, "version.py"), encoding="utf-8") as file:
            found = re.search(r"^__version__\b[^'\"\n]*['\"]([^'\"]+)", file.read(), re.MULTILINE)
        if found:
            return release(found[1])
    return 0, 0


def release(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version, or (0, 0)."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def limit_of(environment: os._Environ[str]) -> NoLimit:
    """Return the limit that the environment gives."""
    if "BSPROBE_LIMIT" not in environment:
        return NoLimit()
    size = int(environment["BSPROBE_LIMIT"])
    if environment.get("BSPROBE_LIMIT_KIND") == "cuda":
        size -= int(environment.get("BSPROBE_OUTSIDE") or 0)
        return CudaLimit(size, int(environment.get("BSPROBE_TOTAL") or 0))
    return DataLimit(size)
