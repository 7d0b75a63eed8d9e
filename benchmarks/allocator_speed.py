"""How fast the simulated allocator is: events (an allocation or a free) per second.

Replays what the programs of the recorded histories asked for, again and again on one allocator
each, and frees what is left after each pass. Run it from a checkout:

    python benchmarks/allocator_speed.py [folder with histories ...]
"""

import sys
import time
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

from benchmarks.validation.history import Action, History, load_history
from benchmarks.validation.replay import allocator_for
from bsprobe.records.units import format_bytes
from bsprobe.simulate.allocator.allocator import CachingAllocator
from bsprobe.simulate.allocator.blocks import Block
from bsprobe.simulate.allocator.driver import SimulatedDriver

GOAL_EVENTS_PER_SECOND = 500_000
EVENTS_PER_HISTORY = 300_000
LEAST_EVENTS = 1_000
"""A shorter history measures the loop rather than the allocator."""
MEMORY_PASSES = (2, 30)
TRACES = Path(__file__).parents[1] / "tests" / "data" / "traces"

Request = tuple[int, int, int]
"""(slot, size, stream): allocate into a slot; with size 0, free what is in it."""


def requests_of(history: History) -> tuple[list[Request], int]:
    """What the program asked for, and the number of slots; what it leaves is freed at the end."""
    slots: dict[int, int] = {}
    requests: list[Request] = []
    count = 0
    for step in history.steps:
        if step.action is Action.ALLOCATE:
            slots[step.address] = count
            requests.append((count, step.size, step.stream))
            count += 1
        elif step.action is Action.FREE and step.address in slots:
            requests.append((slots.pop(step.address), 0, 0))
    requests += [(slot, 0, 0) for slot in slots.values()]
    return requests, count


def replay(allocator: CachingAllocator, requests: Iterable[Request], slots: list[Block]) -> None:
    """One pass, with as little as possible around the calls that are measured."""
    malloc, free = allocator.malloc, allocator.free
    for slot, size, stream in requests:
        if size:
            slots[slot] = malloc(size, stream)
        else:
            free(slots[slot])


def new_allocator(history: History) -> CachingAllocator:
    """An allocator with the history's setting and memory without end."""
    return allocator_for(history)(SimulatedDriver())


def events_per_second(history: History) -> tuple[float, float]:
    """(over all passes, in the best pass), on one allocator."""
    requests, count = requests_of(history)
    allocator = new_allocator(history)
    slots = [allocator.malloc(1)] * count
    passes = -(-EVENTS_PER_HISTORY // len(requests))
    seconds = []
    for _ in range(passes):
        start = time.perf_counter()
        replay(allocator, requests, slots)
        seconds.append(time.perf_counter() - start)
    return passes * len(requests) / sum(seconds), len(requests) / min(seconds)


def memory_growth(history: History) -> int:
    """Bytes that Python holds more after many passes than after few."""
    requests, count = requests_of(history)
    allocator = new_allocator(history)
    slots = [allocator.malloc(1)] * count
    tracemalloc.start()
    held = []
    done = 0
    for passes in MEMORY_PASSES:
        for _ in range(passes - done):
            replay(allocator, requests, slots)
        done = passes
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return held[1] - held[0]


def main(folders: list[Path]) -> None:
    """Measure each history, print a line for each and the verdict."""
    paths = sorted(path for folder in folders for path in folder.glob("*.json.gz"))
    histories = [
        history for history in map(load_history, paths) if len(history.steps) > LEAST_EVENTS
    ]
    if not histories:
        sys.exit(
            f"no histories of more than {LEAST_EVENTS} steps in {', '.join(map(str, folders))}"
        )
    rates = {history.name: events_per_second(history) for history in histories}
    for name, (mean, best) in rates.items():
        print(f"{name:<32} {mean:>12,.0f} events/s   best pass {best:>12,.0f}")
    slowest = min(mean for mean, _ in rates.values())
    verdict = "reached" if slowest >= GOAL_EVENTS_PER_SECOND else "NOT reached"
    print(f"slowest {slowest:,.0f} events/s; goal {GOAL_EVENTS_PER_SECOND:,}: {verdict}")
    growth = memory_growth(histories[0])
    few, many = MEMORY_PASSES
    print(f"memory after {many} passes against {few}: {growth:+,} B ({format_bytes(growth)})")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]] or [TRACES])
