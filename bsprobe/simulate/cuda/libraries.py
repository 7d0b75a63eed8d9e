"""The memory that CUDA's libraries take with the installed PyTorch: cuBLAS's and cuDNN's."""

import torch

from bsprobe.records.gpus import Gpu
from bsprobe.records.variants import CudnnBenchmark
from bsprobe.simulate.cudnn.workspace import Workspaces
from bsprobe.simulate.playback import Memory, Playback, cublas_workspace_bytes
from bsprobe.simulate.sums import Multiprocessors
from bsprobe.simulate.timeline import Timeline
from bsprobe.simulate.versions import INSTALLED, Change, has


def workspaces_on(capability: tuple[int, int]) -> Workspaces:
    """The workspaces of cards of this compute capability, with PyTorch's own settings."""
    return Workspaces(capability, pytorch_cudnn=torch.backends.cudnn.version())


def multiprocessors_of(gpu: Gpu) -> Multiprocessors:
    """What the memory of sums depends on of a card."""
    return Multiprocessors(count=gpu.multiprocessors, threads=gpu.threads)


def playback_on(
    capability: tuple[int, int],
    timeline: Timeline,
    batch: int,
    *,
    allocator: Memory,
    workspaces: Workspaces,
    multiprocessors: Multiprocessors,
    benchmark: CudnnBenchmark,
) -> Playback:
    """A playback as on a card of this compute capability, with this PyTorch."""
    return Playback(
        timeline,
        batch,
        allocator=allocator,
        workspaces=workspaces,
        multiprocessors=multiprocessors,
        benchmark=benchmark,
        cublas_bytes=cublas_workspace_bytes(capability),
        keeps_cublas=not has(INSTALLED, Change.CUBLAS_WORKSPACE_FREED),
    )
