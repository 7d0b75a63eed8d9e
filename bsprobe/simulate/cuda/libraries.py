"""Workspaces of cuBLAS and cuDNN with the installed PyTorch."""

import torch

from bsprobe.records.gpus import Gpu
from bsprobe.records.variants import CudnnBenchmark
from bsprobe.simulate.cudnn.workspace import Workspaces
from bsprobe.simulate.playback import Memory, Playback, cublas_workspace_bytes
from bsprobe.simulate.sums import Multiprocessors
from bsprobe.simulate.timeline import Timeline
from bsprobe.simulate.versions import INSTALLED, Change, has


def workspaces_on(capability: tuple[int, int]) -> Workspaces:
    """Convolution workspaces on cards of a compute capability, with PyTorch's default settings."""
    return Workspaces(capability, pytorch_cudnn=torch.backends.cudnn.version())


def multiprocessors_of(gpu: Gpu) -> Multiprocessors:
    """The multiprocessors of a card, which decide the buffers of sums."""
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
    """Make a playback for a card, with the cuBLAS behaviour of the installed PyTorch.

    Args:
        capability: The card's compute capability, (8, 6) for 8.6.
        timeline: The timeline to play.
        batch: Images in a micro-batch.
        allocator: The allocator of the card.
        workspaces: Source of the convolutions' workspaces.
        multiprocessors: The multiprocessors of the card, from `multiprocessors_of`.
        benchmark: ON if cuDNN times its algorithms at a convolution's first use.
    """
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
