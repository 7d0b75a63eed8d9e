"""Replay of recorded histories on the simulated allocator.

* `replay_addresses` takes the segment addresses from the record, makes all other decisions, and
  compares each one: segment sizes, releases, block addresses.
* `replay_freely` takes only the program's actions (allocate, free, empty the cache).
"""

from collections import deque
from collections.abc import Callable, Sequence

from benchmarks.validation.history import Action, DriverCall, History, ReplayResult, Step
from bsprobe.records.errors import BsprobeError
from bsprobe.records.units import GIB
from bsprobe.simulate.allocator.blocks import Block
from bsprobe.simulate.allocator.caching import CachingAllocator, SimulatedOutOfMemoryError
from bsprobe.simulate.allocator.driver import TOP_ADDRESS, MemoryDriver, SimulatedDriver
from bsprobe.simulate.allocator.expandable import ExpandableAllocator

AllocatorFactory = Callable[[MemoryDriver], CachingAllocator]


class HistoryMismatchError(BsprobeError):
    """A decision of the simulation differs from that of the GPU's allocator."""


def allocator_for(history: History) -> AllocatorFactory:
    """Return the allocator with the setting under which the history was recorded."""
    return ExpandableAllocator if history.is_expandable else CachingAllocator


def replay_addresses(history: History, make: AllocatorFactory | None = None) -> ReplayResult:
    """Replay with the recorded segment addresses and compare each decision.

    Args:
        history: The recorded history.
        make: Makes the allocator to test; by default the one that fits the history.

    Raises:
        HistoryMismatchError: A decision differs; the message names the step and the difference.
    """
    driver = _RecordedDriver()
    replay = _Replay(history, driver, make or allocator_for(history))
    for number, step in enumerate(history.steps):
        driver.expect(step.calls)
        try:
            block = replay.take(step)
            driver.check_done()
            _check_address(block, step)
        except (HistoryMismatchError, SimulatedOutOfMemoryError) as error:
            raise HistoryMismatchError(f"{history.name}, step {number}: {error}") from error
    if replay.blocks() != history.final_blocks:
        raise HistoryMismatchError(f"{history.name}: the blocks at the end differ")
    return replay.result()


def replay_freely(
    history: History, make: AllocatorFactory | None = None, *, available_bytes: int | None = None
) -> ReplayResult:
    """Replay with invented, descending segment addresses.

    Args:
        history: The recorded history.
        make: Makes the allocator to test; by default the one that fits the history.
        available_bytes: The driver's memory; None for unlimited.

    Raises:
        SimulatedOutOfMemoryError: An allocation failed that did not fail on the GPU.
    """
    driver = _ObservedDriver(
        available_bytes=available_bytes,
        used_bytes=sum(segment.size for segment in history.initial_segments),
    )
    # Existing segments keep their order, above all later ones.
    replay = _Replay(history, driver, make or allocator_for(history), offset=TOP_ADDRESS)
    for step in history.steps:
        replay.take(step)
    return replay.result()


def _check_address(block: Block | None, step: Step) -> None:
    if block is not None and block.address != step.address:
        raise HistoryMismatchError(
            f"{step.size} bytes at {block.address:#x}, recorded at {step.address:#x}"
        )


class _ObservedDriver(SimulatedDriver):
    """A simulated driver that logs the memory it grants."""

    def __init__(self, *, available_bytes: int | None, used_bytes: int) -> None:
        super().__init__(available_bytes=available_bytes, used_bytes=used_bytes)
        self.granted: list[int] = []
        self.returns = 0

    def malloc(self, size: int) -> int | None:
        address = super().malloc(size)
        if address is not None:
            self.granted.append(size)
        return address

    def free(self, address: int, size: int) -> None:
        super().free(address, size)
        self.returns += 1

    def map(self, address: int, size: int) -> bool:
        is_granted = super().map(address, size)
        if is_granted:
            self.granted.append(size)
        return is_granted


class _RecordedDriver:
    """Answers as the driver did on the GPU, and raises on calls that were not made there."""

    total_bytes = 80 * GIB  # only bounds expandable segments

    def __init__(self) -> None:
        self.granted: list[int] = []
        self.returns = 0
        self._calls: deque[DriverCall] = deque()

    def expect(self, calls: Sequence[DriverCall]) -> None:
        """Set the expected calls of the next step."""
        self._calls.extend(calls)

    def check_done(self) -> None:
        """Raise HistoryMismatchError unless all calls of the step were made."""
        if self._calls:
            raise HistoryMismatchError(f"missing call in the simulation: {self._calls[0]}")

    def malloc(self, size: int) -> int | None:
        """Return the recorded address of a segment, or None if the record shows a refusal."""
        if not self._calls or self._calls[0].code != "S":
            return None
        address = self._calls[0].address
        self._make(DriverCall("S", address, size))
        self.granted.append(size)
        return address

    def free(self, address: int, size: int) -> None:
        """Take a segment back if the GPU's allocator gave it back."""
        self._make(DriverCall("F", address, size))
        self.returns += 1

    def reserve(self, size: int) -> int:  # noqa: ARG002 - the record lacks the size
        """Return an address range that starts where the next pages are mapped."""
        return self._calls[0].address if self._calls else 0

    def release(self, address: int, size: int) -> None:
        """Do nothing: the record has no address ranges."""

    def map(self, address: int, size: int) -> bool:
        """Map pages as recorded; return False if the record shows a refusal."""
        if not self._calls or self._calls[0].code != "M":
            return False
        self._make(DriverCall("M", address, size))
        self.granted.append(size)
        return True

    def unmap(self, address: int, size: int) -> None:
        """Unmap pages if the GPU's allocator did."""
        self._make(DriverCall("U", address, size))
        self.returns += 1

    def _make(self, call: DriverCall) -> None:
        recorded = self._calls.popleft() if self._calls else None
        if call != recorded:
            raise HistoryMismatchError(f"simulated {call}, recorded {recorded}")


class _Replay:
    """A program's steps on one allocator; blocks are identified by their recorded addresses."""

    def __init__(
        self,
        history: History,
        driver: "_RecordedDriver | _ObservedDriver",
        make: AllocatorFactory,
        *,
        offset: int = 0,
    ) -> None:
        self._driver = driver
        self._allocator = allocator = make(driver)
        self._live: dict[int, Block] = {}
        self._allocations = 0
        self._flushes: list[int] = []
        for segment in history.initial_segments:
            blocks = allocator.adopt_segment(
                segment.address + offset,
                segment.size,
                [(address + offset, size, requested) for address, size, requested in segment.live],
                stream=segment.stream,
                is_small=segment.is_small,
            )
            self._live |= {block.address - offset: block for block in blocks}

    def take(self, step: Step) -> Block | None:
        """Perform a step of the program; return the block if it was an allocation."""
        if step.action is Action.FREE:
            self._allocator.free(self._live.pop(step.address))
        elif step.action is Action.EMPTY_CACHE:
            self._allocator.empty_cache()
        else:
            return self._allocate(step)
        return None

    def _allocate(self, step: Step) -> Block | None:
        returns = self._driver.returns
        try:
            block = self._allocator.malloc(step.size, step.stream)
        except SimulatedOutOfMemoryError:
            if step.action is Action.OUT_OF_MEMORY:
                return None
            raise
        finally:
            if self._driver.returns > returns:
                self._flushes.append(self._allocations)
            self._allocations += 1
        self._live[step.address] = block
        return block

    def blocks(self) -> tuple[tuple[int, int, bool], ...]:
        """Return (address, size, is allocated) of all current blocks, by address."""
        live = [(block.address, block.size, True) for block in self._live.values()]
        free = [(block.address, block.size, False) for block in self._allocator.free_blocks]
        return tuple(sorted(live + free))

    def result(self) -> ReplayResult:
        """Return the result so far."""
        statistics = self._allocator.statistics
        return ReplayResult(
            new_memory=tuple(self._driver.granted),
            flushes=tuple(self._flushes),
            num_ooms=statistics.num_ooms,
            peak_allocated_bytes=statistics.peak_allocated_bytes,
            peak_requested_bytes=statistics.peak_requested_bytes,
            peak_reserved_bytes=statistics.peak_reserved_bytes,
            final_reserved_bytes=statistics.reserved_bytes,
        )
