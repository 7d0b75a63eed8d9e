"""Plays a timeline on an allocator: the step's memory as a card would see it, batch by batch."""

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
"""Called after an event with its action, its subject and the bytes it takes inside a kernel."""


class Memory(Protocol):
    """An allocator as a program uses it: `CachingAllocator`, or one that takes notes."""

    def malloc(self, size: int) -> "Block":
        """Allocate."""

    def free(self, block: "Block") -> None:
        """Give back what `malloc` returned."""

    def empty_cache(self) -> None:
        """Return all wholly free segments to the driver."""


class KernelLimitError(RuntimeError):
    """A kernel that counts in 32 bits met more elements than that."""


class NoPlanError(RuntimeError):
    """cuDNN has no plan at all for a convolution: PyTorch could not run it on this card."""


def cublas_workspace_bytes(capability: tuple[int, int]) -> int:
    """Bytes that cuBLAS keeps for each handle and stream once a matrix product ran.

    Source: `parseChosenWorkspaceSize` in ATen/cuda/CublasHandlePool.cpp: 32 MiB on Hopper, else
    two of 4 MiB and sixteen of 8 KiB.
    """
    return 4096 * 8 * 1024 if capability == _HOPPER else 4096 * 1024 * 2 + 16 * 1024 * 8


class WorkspaceSource(Protocol):
    """The workspaces of convolutions, such as `Workspaces` has them."""

    def candidates(self, convolution: Convolution) -> tuple[int, ...]:
        """Bytes asked of the allocator, in the order in which PyTorch tries them."""


class Playback:
    """Plays sections of a timeline at one batch size, in any order that makes sense.

    Args:
        timeline: What to play.
        batch: The micro-batch.
        allocator: Where memory comes from; its state is the state of the card.
        workspaces: Who says what convolutions take inside.
        benchmark: Whether cuDNN times its algorithms first.
        cublas_bytes: From `cublas_workspace_bytes`.
        multiprocessors: Those of the card, which sums take memory for; None: they take none.
        keeps_cublas: Whether cuBLAS's workspace lives on, as it does until PyTorch 2.14; from 2.15
            it is taken for each call.
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
        """Bytes that cuBLAS keeps of the allocator from its first matrix products on."""
        return sum(block.size for block in self._cublas.values())

    def play(self, section: Section, watch: Watch | None = None) -> None:
        """Play one section; a later step may be played again and again.

        Raises:
            SimulatedOutOfMemoryError: The card is full.
            KernelLimitError: A kernel met more than 2**31 - 1 elements.
            NoPlanError: cuDNN would not run a convolution on this card.
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
        """Take what a kernel takes inside, and give it back; returns the most it held at once."""
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
        """Run the first plan whose workspace can be had: what out of memory means to PyTorch."""
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
        """Take the largest workspace, halving it until it is there, then empty the cache."""
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
            return 0  # it is among what is allocated from now on
        return self._give_back(block)

    def _give_back(self, block: "Block") -> int:
        """Free a block and return its size: free neighbours grow it as soon as it is free."""
        size = block.size
        self._allocator.free(block)
        return size
