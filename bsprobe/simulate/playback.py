"""Replay of a timeline on an allocator, at one batch size."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

from bsprobe.records.variants import CudnnBenchmark
from bsprobe.simulate.allocator.caching import SimulatedOutOfMemoryError
from bsprobe.simulate.cudnn.convolutions import Convolution
from bsprobe.simulate.cudnn.workspace import timing_bytes
from bsprobe.simulate.sums import Multiprocessors
from bsprobe.simulate.timeline import Action, Phase, Scratch, Section, Timeline

if TYPE_CHECKING:
    from bsprobe.simulate.allocator.blocks import Block

_INT32_MAX: Final = 2**31 - 1
_HOPPER: Final = (9, 0)

Watch = Callable[[Action, int, int], None]
"""Called after an event with its action, its subject and the bytes taken inside the kernel."""


class Memory(Protocol):
    """The allocator calls of a training step: `CachingAllocator`, or one that records them."""

    def malloc(self, size: int) -> "Block":
        """Allocate `size` bytes."""

    def free(self, block: "Block") -> None:
        """Free a block that `malloc` returned."""

    def empty_cache(self) -> None:
        """Return all unused segments to the driver."""


class KernelLimitError(RuntimeError):
    """A kernel with a 32-bit element count was given more than 2**31 - 1 elements."""


class NoPlanError(RuntimeError):
    """cuDNN has no plan for a convolution, so PyTorch cannot run it on this card."""


def cublas_workspace_bytes(capability: tuple[int, int]) -> int:
    """Bytes of the workspace that cuBLAS takes per handle and stream for matrix products.

    Source: `parseChosenWorkspaceSize` in ATen/cuda/CublasHandlePool.cpp: 32 MiB on Hopper, else
    two of 4 MiB and sixteen of 8 KiB.
    """
    return 4096 * 8 * 1024 if capability == _HOPPER else 4096 * 1024 * 2 + 16 * 1024 * 8


class WorkspaceSource(Protocol):
    """A source of convolution workspaces, such as `Workspaces`."""

    def candidates(self, convolution: Convolution) -> tuple[int, ...]:
        """Bytes asked of the allocator, in the order in which PyTorch tries them."""


class Playback:
    """Plays sections of a timeline on an allocator at one batch size.

    Args:
        timeline: The timeline to play.
        batch: Images in a micro-batch.
        allocator: The allocator of the card.
        workspaces: Source of the convolutions' workspaces.
        benchmark: ON if cuDNN times its algorithms at a convolution's first use.
        cublas_bytes: Size of cuBLAS's workspace, from `cublas_workspace_bytes`.
        multiprocessors: The card's multiprocessors, which decide the buffers of sums; None for no
            buffers.
        keeps_cublas: True if cuBLAS keeps its workspace after the first call, as it does until
            PyTorch 2.14. From 2.15 on the workspace is allocated for each call.
    """

    def __init__(
        self,
        timeline: Timeline,
        batch: int,
        *,
        allocator: Memory,
        workspaces: WorkspaceSource,
        benchmark: CudnnBenchmark = CudnnBenchmark.OFF,
        cublas_bytes: int = cublas_workspace_bytes((8, 0)),
        multiprocessors: Multiprocessors | None = None,
        keeps_cublas: bool = True,
    ) -> None:
        self._timeline = timeline
        self._batch = batch
        self._allocator = allocator
        self._workspaces = workspaces
        self._benchmark = benchmark
        self._cublas_bytes = cublas_bytes
        self._multiprocessors = multiprocessors
        self._keeps_cublas = keeps_cublas
        self._cublas: dict[bool, Block] = {}
        self._sizes = [storage.size.at(batch) for storage in timeline.storages]
        self._live: dict[int, Block] = {}
        self._plans: dict[int, tuple[int, ...]] = {}

    @property
    def kept_bytes(self) -> int:
        """Bytes of the workspaces that cuBLAS holds now."""
        return sum(block.size for block in self._cublas.values())

    def play(self, section: Section, watch: Watch | None = None) -> None:
        """Play one section. A later step can be played repeatedly.

        Raises:
            SimulatedOutOfMemoryError: The card is full.
            KernelLimitError: A kernel with a 32-bit count was given more than 2**31 - 1 elements.
            NoPlanError: cuDNN has no plan for a convolution on this card.
        """
        allocator, sizes, live = self._allocator, self._sizes, self._live
        for action, subject in self._timeline.sections[section]:
            if action is Action.ALLOCATE:
                live[subject] = allocator.malloc(sizes[subject])
                inside = 0
            elif action is Action.FREE:
                allocator.free(live.pop(subject))
                inside = 0
            elif action is Action.HAND_ON:
                newer, older = self._timeline.handovers[subject]
                live[older] = live.pop(newer)
                inside = 0
            else:
                inside = self._run_kernel(subject)
            if watch is not None:
                watch(action, subject, inside)

    def _run_kernel(self, index: int) -> int:
        """Allocate and free a kernel's temporary memory; returns its peak in bytes."""
        scratch = self._timeline.scratches[index]
        if scratch.elements is not None and scratch.elements.at(self._batch) > _INT32_MAX:
            raise KernelLimitError(
                f"{scratch.place.operator}: {scratch.elements.at(self._batch)} elements, which "
                "must fit into 32-bit index math"
            )
        allocator = self._allocator
        taken = [allocator.malloc(size) for size in self._sizes_inside(scratch) if size]
        inside = sum(block.size for block in taken)
        if scratch.convolution is not None:
            inside += self._run_convolution(scratch.convolution)
        if scratch.uses_cublas:
            inside += self._run_matrix_product(scratch.place.phase)
        for block in reversed(taken):
            allocator.free(block)
        return inside

    def _sizes_inside(self, scratch: Scratch) -> Iterator[int]:
        for size in scratch.sizes:
            yield size.at(self._batch)
        if scratch.reduction is not None and self._multiprocessors is not None:
            yield from scratch.reduction.at(self._batch).sizes_on(self._multiprocessors)

    def _run_convolution(self, index: int) -> int:
        plans, timing = self._plans.get(index), 0
        if plans is None:
            convolution = self._timeline.convolutions[index].at(self._batch)
            plans = self._workspaces.candidates(convolution)
            if not plans:
                raise NoPlanError(f"cuDNN has no plan for {convolution}")
            if self._benchmark is CudnnBenchmark.ON:
                timing = self._time_plans(timing_bytes(plans))
            self._plans[index] = plans
        return max(timing, self._take_first(plans))

    def _take_first(self, plans: tuple[int, ...]) -> int:
        """Run the first plan whose workspace can be allocated, as PyTorch does."""
        refused: SimulatedOutOfMemoryError | None = None
        for size in plans:
            if size == 0:
                return 0
            try:
                block = self._allocator.malloc(size)
            except SimulatedOutOfMemoryError as error:
                refused = error
                continue
            return self._give_back(block)
        assert refused is not None  # noqa: S101 - there is at least one plan
        raise refused

    def _time_plans(self, size: int) -> int:
        """Allocate the largest workspace, halved until it fits, then empty the cache."""
        taken = 0
        while size > 0:
            try:
                block = self._allocator.malloc(size)
            except SimulatedOutOfMemoryError:
                size //= 2
                continue
            taken = self._give_back(block)
            break
        self._allocator.empty_cache()
        return taken

    def _run_matrix_product(self, phase: Phase) -> int:
        """Take the workspace of a thread's handle; the backward pass has a thread of its own.

        Source: `getCurrentCUDABlasHandle` in ATen/cuda/CublasHandlePool.cpp.
        """
        is_backward = phase is Phase.BACKWARD
        if is_backward in self._cublas:
            return 0
        block = self._allocator.malloc(self._cublas_bytes)
        if self._keeps_cublas:
            self._cublas[is_backward] = block
            return 0  # a kept workspace is no temporary memory
        return self._give_back(block)

    def _give_back(self, block: "Block") -> int:
        """Free a block and return its size before it merges with free neighbours."""
        size = block.size
        self._allocator.free(block)
        return size
