"""Measure the speed of the parts of a prediction, and of a whole prediction.

    python benchmarks/speed.py allocator [folder with histories ...]
    python benchmarks/speed.py trace [model]
    python benchmarks/speed.py prediction
    python benchmarks/speed.py workers

Run it from a checkout.

allocator: events (an allocation or a free) per second of the simulated allocator. Replays the
requests of the recorded histories repeatedly on one allocator each, and frees the remaining blocks
after each pass.

trace: seconds to trace a training step of deeplabv2-resnet101 at two batch sizes, matched. Each
precision is traced in its own process. Importing torch and bsprobe is not counted; importing
torch._dynamo, which PyTorch needs for fake tensors, is counted and also shown. A first run, not
counted, compiles the imported modules.

prediction: seconds from the start of the process, and memory of the worker. Runs the command line
as a user would, first without and then with cuDNN's answers on the disk: the default matrix for
one card, and every card of the catalogue.

workers: seconds until a worker has opened its device (the CPU or a predicted card), forked and
spawned in turn. The start of the fork server, once for each command, is shown separately.
"""

import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.checkout import ROOT, python_path, run_bsprobe
from benchmarks.validation.history import Action, History, load_history
from benchmarks.validation.replay import allocator_for
from bsprobe.records.gpus import find_gpu
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.units import GIB, Resolution, format_bytes
from bsprobe.records.variants import Precision, Variant
from bsprobe.simulate.allocator.driver import SimulatedDriver
from bsprobe.worker.process import COMMAND, Worker
from bsprobe.worker.spawning import SPAWN, prepared

GOAL_EVENTS_PER_SECOND = 500_000
EVENTS_PER_HISTORY = 300_000
LEAST_EVENTS = 1_000
"""A shorter history would measure the loop rather than the allocator."""
MEMORY_PASSES = (2, 30)
TRACES = ROOT / "tests" / "data" / "traces"

GOAL_SECONDS = 5.0
THREADS = 2
REPEATS = 3

GOAL_OPENING_SECONDS = 0.1
OPENED = {
    "cpu": DeviceRequest(device="cpu", memory_limit_bytes=GIB),
    "predicted": DeviceRequest(gpu=find_gpu("RTX 3090")),
}

COMMANDS = {
    "default matrix, one card (goal: 20 s)": ("run", "--gpu", "RTX 3090"),
    "default matrix, all cards (goal: 60 s)": ("gpus", "--fit"),
}

Request = tuple[int, int, int]
"""(slot, size, stream): allocate into a slot; size 0 frees the slot."""


class Replayed:
    """A program's requests on one allocator, with the history's setting and unlimited memory."""

    def __init__(self, history: History) -> None:
        self.requests, count = requests_of(history)
        self._allocator = allocator_for(history)(SimulatedDriver())
        self._slots = [self._allocator.malloc(1)] * count

    def once(self) -> float:
        """Run one pass and return its seconds, with little code around the measured calls."""
        malloc, free, slots = self._allocator.malloc, self._allocator.free, self._slots
        start = time.perf_counter()
        for slot, size, stream in self.requests:
            if size:
                slots[slot] = malloc(size, stream)
            else:
                free(slots[slot])
        return time.perf_counter() - start


def requests_of(history: History) -> tuple[list[Request], int]:
    """Return a program's requests, with final frees of remaining blocks, and the slot count."""
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


def events_per_second(history: History) -> tuple[float, float]:
    """Measure one allocator: (events per second over all passes, in the best pass)."""
    replayed = Replayed(history)
    events = len(replayed.requests)
    seconds = [replayed.once() for _ in range(-(-EVENTS_PER_HISTORY // events))]
    return len(seconds) * events / sum(seconds), events / min(seconds)


def memory_growth(history: History) -> int:
    """Return the growth of Python's memory in bytes between a few and many passes."""
    replayed = Replayed(history)
    tracemalloc.start()
    held = []
    for done in range(1, max(MEMORY_PASSES) + 1):
        replayed.once()
        if done in MEMORY_PASSES:
            held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return held[1] - held[0]


def allocator(*folders: str) -> None:
    """Measure each history; print a line for each and the verdict."""
    chosen = [Path(folder) for folder in folders] or [TRACES]
    paths = sorted(path for folder in chosen for path in folder.glob("*.json.gz"))
    histories = [each for each in map(load_history, paths) if len(each.steps) > LEAST_EVENTS]
    if not histories:
        sys.exit(f"no histories of more than {LEAST_EVENTS} steps in {', '.join(map(str, chosen))}")
    rates = {history.name: events_per_second(history) for history in histories}
    for name, (mean, best) in rates.items():
        print(f"{name:<32} {mean:>12,.0f} events/s   best pass {best:>12,.0f}")
    slowest = min(mean for mean, _ in rates.values())
    verdict = "reached" if slowest >= GOAL_EVENTS_PER_SECOND else "NOT reached"
    print(f"slowest {slowest:,.0f} events/s; goal {GOAL_EVENTS_PER_SECOND:,}: {verdict}")
    growth = memory_growth(histories[0])
    few, many = MEMORY_PASSES
    print(f"memory after {many} passes against {few}: {growth:+,} B ({format_bytes(growth)})")


def traced_here(model: str, precision: str) -> None:
    """Trace in this process; print seconds, processor time and events as JSON."""
    from bsprobe.simulate.trace.tracer import StepTracer  # noqa: PLC0415 - imports torch: not counted

    variant = Variant(
        model=model,
        resolution=Resolution(height=512, width=1024),
        precision=Precision(precision),
    )
    start, processor_start = time.perf_counter(), time.process_time()
    importlib.import_module("torch._dynamo.config")  # as FakeTensorMode does
    imported = time.perf_counter()
    timeline = StepTracer(variant).timeline(4)
    end, processor_end = time.perf_counter(), time.process_time()
    assert len(timeline.traced_at) == 2  # noqa: S101, PLR2004 - only a matched trace is complete
    figures = {
        "seconds": end - start,
        "dynamo_seconds": imported - start,
        "processor_seconds": processor_end - processor_start,
        "events": sum(map(len, timeline.sections.values())),
    }
    print(json.dumps(figures))


def traced(model: str, precision: str, modules: str) -> dict[str, float]:
    """Trace in a fresh process whose compiled modules are kept in a folder.

    Args:
        model: The network to trace.
        precision: Its precision.
        modules: The folder for compiled modules.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(THREADS),
        "PYTHONPATH": python_path(),
        "PYTHONPYCACHEPREFIX": modules,
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, __file__, "traced-here", model, precision]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def trace(model: str = "deeplabv2-resnet101") -> None:
    """Measure each precision; print a line for each and the verdict."""
    slowest = 0.0
    with tempfile.TemporaryDirectory() as modules:
        traced(model, Precision.FP32, modules)
        for precision in Precision:
            runs = [traced(model, precision, modules) for _ in range(REPEATS)]
            best = min(runs, key=lambda run: run["seconds"])
            slowest = max(slowest, best["seconds"])
            print(
                f"{model} {precision:<9} {best['seconds']:5.2f} s, of which importing "
                f"torch._dynamo {best['dynamo_seconds']:5.2f} s; processor "
                f"{best['processor_seconds']:5.2f} s; {best['events']:,.0f} events"
            )
    verdict = "reached" if slowest < GOAL_SECONDS else "NOT reached"
    print(f"slowest {slowest:.2f} s (best of {REPEATS}); goal {GOAL_SECONDS:.0f} s: {verdict}")


def prediction() -> None:
    """Print the table of command times."""
    print(f"{os.cpu_count()} cores")
    print(f"{'':<40}{'cold':>8}{'warm':>8}")
    for name, arguments in COMMANDS.items():
        with tempfile.TemporaryDirectory() as cache:
            seconds = [command_seconds(arguments, cache) for _ in range(2)]
        print(f"{name:<40}{seconds[0]:>7.1f}s{seconds[1]:>7.1f}s")
    peak_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"largest process: {peak_gib:.2f} GiB (goal: 2 GiB)")


def command_seconds(arguments: Iterable[str], cache: str) -> float:
    """Run one bsprobe command in a folder and return its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run_bsprobe(*arguments, folder=folder, XDG_CACHE_HOME=cache)
        return time.perf_counter() - start


def workers() -> None:
    """Print a line for each kind of worker, and the verdict."""
    goal_missed = False
    for name, request in OPENED.items():
        start = time.perf_counter()
        prepared(COMMAND, {})
        server = time.perf_counter() - start
        seconds: dict[str, list[float]] = {"0": [], "1": []}
        for turn in range(2 * REPEATS):
            spawn = str((turn + turn // 2) % 2)  # forked first, then spawned first
            seconds[spawn].append(opening_seconds(request, spawn))
        forked, spawned = map(statistics.median, seconds.values())
        print(
            f"{name:<10} server {server:5.2f} s   forked {forked:6.3f} s   "
            f"spawned {spawned:6.3f} s   ratio {forked / spawned:.3f}"
        )
        goal_missed |= name == "cpu" and forked > GOAL_OPENING_SECONDS
    verdict = "NOT reached" if goal_missed else "reached"
    print(f"medians of {REPEATS}; goal for the CPU {GOAL_OPENING_SECONDS} s: {verdict}")


def opening_seconds(request: DeviceRequest, spawn: str) -> float:
    """Return the seconds until a worker has opened its device."""
    start = time.perf_counter()
    worker = Worker(request, environment={SPAWN: spawn})
    seconds = time.perf_counter() - start
    worker.close()
    return seconds


QUESTIONS: dict[str, Callable[..., None]] = {
    "allocator": allocator,
    "trace": trace,
    "traced-here": traced_here,
    "prediction": prediction,
    "workers": workers,
}

if __name__ == "__main__":
    if sys.argv[1:2] == [] or sys.argv[1] not in QUESTIONS:
        sys.exit(__doc__)
    QUESTIONS[sys.argv[1]](*sys.argv[2:])
